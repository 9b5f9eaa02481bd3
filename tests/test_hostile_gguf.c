/*
 * test_hostile_gguf.c - no header may cause a crash, a hang or a huge allocation: absurd headers
 * written by hand, and thousands of small mutations of valid ones. Accepted tensors must lie inside
 * the file.
 *
 * The process runs under an address-space limit, so that a huge allocation ends the test.
 */
#include "model_files.h"
#include "random.h"

#include <sys/resource.h>

#include "base/units.h"
#include "model/catalog.h"
#include "model/header.h"
#include "model/vgguf.h"

#define MEMORY_LIMIT (3 * FB_GIB)

/* --- Headers by hand ------------------------------------------------------------------------ */

struct bytes {
    char data[8192];
    size_t size;
};

static void put(struct bytes *b, const void *p, size_t n)
{
    assert_true(b->size + n <= sizeof b->data);
    memcpy(b->data + b->size, p, n);
    b->size += n;
}

static void put_u32(struct bytes *b, uint32_t v)
{
    put(b, &v, 4);
}

static void put_u64(struct bytes *b, uint64_t v)
{
    put(b, &v, 8);
}

static void put_string(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static struct bytes start(uint64_t n_tensors, uint64_t n_kv)
{
    struct bytes b = {.size = 0};
    put(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, n_tensors);
    put_u64(&b, n_kv);
    return b;
}

static void put_tensor(struct bytes *b, const char *name, uint32_t n_dims, const uint64_t *ne,
    uint32_t type, uint64_t offset)
{
    put_string(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        put_u64(b, ne[i]);
    }
    put_u32(b, type);
    put_u64(b, offset);
}

/* --- Opening -------------------------------------------------------------------------------- */

/* Opens, and checks the invariants of accepted and refused files. */
static enum forebay_status open_checked(const char *path, struct forebay_error *err)
{
    struct fb_catalog *c = NULL;
    memset(err, 0, sizeof *err);
    enum forebay_status status = fb_catalog_open(path, false, &c, err);
    if (status != FOREBAY_OK) {
        assert_null(c);
        assert_true(status == FOREBAY_E_FORMAT || status == FOREBAY_E_IO);
        assert_true(err->message[0] != 0);
        return status;
    }
    for (int i = 0; i < c->n_tensors; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        uint64_t size = c->files[t->file]->size;
        assert_true(t->bytes <= size && t->offset <= size - t->bytes);
        assert_true(t->n_expert >= 0);
        assert_true(t->expert_bytes * (uint64_t)t->n_expert <= t->bytes);
        assert_int_equal(fb_catalog_find(c, t->name), i);
    }
    assert_true(fb_catalog_bytes_per_token(c) <= c->tensor_bytes);
    static int accepted;
    FILE *f;
    if (accepted++ % 50 == 0 && fb_vgguf_open(c, NULL, NULL, &f, NULL) == FOREBAY_OK) {
        fclose(f);
    }
    fb_catalog_free(c);
    return FOREBAY_OK;
}

/* A file of these bytes, padded with zeros to `size`, is refused for the reason given. */
static void refuse(const struct bytes *b, uint64_t size, const char *reason)
{
    const char *path = temp_path("hostile.gguf");
    struct forebay_error err;
    write_file(path, b->data, b->size);
    if (size > b->size) {
        assert_int_equal(truncate(path, (off_t)size), 0);
    }
    uint64_t begin = fb_now_ns();
    enum forebay_status status = open_checked(path, &err);
    double seconds = (double)(fb_now_ns() - begin) * 1e-9;
    print_message("%s (%.3f s)\n", err.message, seconds);
    assert_int_equal(status, FOREBAY_E_FORMAT);
    assert_non_null(strstr(err.message, reason));
    assert_true(seconds < 5);
}

#define TERABYTE ((uint64_t)1 << 40)

static void test_counts(void **state)
{
    (void)state;
    struct bytes b = start(UINT64_MAX, 0);
    refuse(&b, 0, "18446744073709551615 tensors");
    b = start((uint64_t)1 << 40, 0);
    refuse(&b, TERABYTE, "tensors");
    b = start(1000000, 0);
    refuse(&b, TERABYTE, "tensors");
    b = start(0, (uint64_t)INT64_MAX);
    refuse(&b, TERABYTE, "key-value pairs");
    b = start(0, 100000);
    refuse(&b, TERABYTE, "key-value pairs");
    b = start(1, 0);
    refuse(&b, 0, "truncated or damaged");
}

static void test_strings(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {
        UINT64_MAX, INT64_MAX, (uint64_t)1 << 40, (uint64_t)1 << 31, 1000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct bytes b = start(0, 1);
        put_u64(&b, lengths[i]);
        refuse(&b, 0, "truncated or damaged");
    }
    struct bytes b = start(0, 1);
    put_u64(&b, (uint64_t)1 << 31);
    refuse(&b, TERABYTE, "larger than 128 MiB");
    b = start(0, 1);
    put_u64(&b, 1000);
    refuse(&b, TERABYTE, "too long or has a NUL"); /* all zeros */
    b = start(0, 1);
    put_u64(&b, 0);
    refuse(&b, TERABYTE, "empty");
    b = start(0, 2);
    for (int i = 0; i < 2; i++) {
        put_string(&b, "same.key");
        put_u32(&b, GGUF_TYPE_UINT8);
        put(&b, "x", 1);
    }
    refuse(&b, 0, "two keys named 'same.key'");
    b = start(0, 1);
    put_u64(&b, 4);
    put(&b, "a\0b", 4);
    refuse(&b, 100, "too long or has a NUL");
    b = start(0, 1);
    put_string(&b, "\033[2Jkey\n");
    put_u32(&b, 77);
    refuse(&b, 0, "unknown type 77");
}

static void put_array(struct bytes *b, uint32_t type, uint64_t count)
{
    put_string(b, "some.array");
    put_u32(b, GGUF_TYPE_ARRAY);
    put_u32(b, type);
    put_u64(b, count);
}

static void test_arrays(void **state)
{
    (void)state;
    static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 8 + 1, (uint64_t)1 << 50, 1 << 20};
    static const uint32_t types[] = {GGUF_TYPE_UINT8, GGUF_TYPE_FLOAT64, GGUF_TYPE_BOOL};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (size_t j = 0; j < sizeof types / sizeof types[0]; j++) {
            struct bytes b = start(0, 1);
            put_array(&b, types[j], counts[i]);
            refuse(&b, 0, "truncated or damaged");
        }
        struct bytes b = start(0, 1);
        put_array(&b, GGUF_TYPE_STRING, counts[i]);
        refuse(&b, 0, counts[i] > (1 << 20) ? "strings" : "truncated or damaged");
    }
    struct bytes b = start(0, 1);
    put_array(&b, GGUF_TYPE_FLOAT64, (uint64_t)1 << 30);
    refuse(&b, TERABYTE, "larger than 128 MiB");
    b = start(0, 1);
    put_array(&b, GGUF_TYPE_STRING, (uint64_t)1 << 30); /* gguf.h would allocate 64 GB for these */
    refuse(&b, TERABYTE, "strings");
    b = start(0, 1);
    put_array(&b, GGUF_TYPE_ARRAY, 1); /* arrays of arrays */
    refuse(&b, 100, "unknown type 9");
    b = start(0, 1);
    put_array(&b, 0xffffffff, 1);
    refuse(&b, 100, "unknown type");
}

static void put_alignment(struct bytes *b, uint32_t type, uint64_t value)
{
    put_string(b, "general.alignment");
    put_u32(b, type);
    put(b, &value, type == GGUF_TYPE_UINT64 ? 8 : 4);
}

static void test_alignment(void **state)
{
    (void)state;
    static const uint64_t wrong[] = {0, 3, 33, 0x80000000u, 0xffffffffu};
    static const uint64_t one[] = {1};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct bytes b = start(1, 1);
        put_alignment(&b, GGUF_TYPE_UINT32, wrong[i]);
        put_tensor(&b, "a", 1, one, GGML_TYPE_F32, 0);
        refuse(&b, TERABYTE, "alignment");
    }
    struct bytes b = start(1, 1);
    put_alignment(&b, GGUF_TYPE_UINT64, 32);
    put_tensor(&b, "a", 1, one, GGML_TYPE_F32, 0);
    refuse(&b, 1000, "alignment");
    b = start(1, 1);
    put_alignment(&b, GGUF_TYPE_UINT32, 4096);
    put_tensor(&b, "a", 1, one, GGML_TYPE_F32, 0);
    refuse(&b, 4099, "truncated: 1 bytes");
    const char *path = temp_path("aligned.gguf");
    struct forebay_error err;
    write_file(path, b.data, b.size);
    assert_int_equal(truncate(path, 4100), 0);
    assert_int_equal(open_checked(path, &err), FOREBAY_OK);
}

static void refuse_tensor(
    uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset, const char *reason)
{
    struct bytes b = start(1, 0);
    put_tensor(&b, "blk.0.ffn_up_exps.weight", n_dims, ne, type, offset);
    refuse(&b, TERABYTE, reason);
}

static void test_tensors(void **state)
{
    (void)state;
    const uint64_t huge = (uint64_t)1 << 32, top = (uint64_t)1 << 63;
    refuse_tensor(2, (uint64_t[]){huge, huge}, GGML_TYPE_F32, 0, "shape"); /* product wraps to 0 */
    refuse_tensor(4, (uint64_t[]){65536, 65536, 65536, 65536}, GGML_TYPE_F32, 0, "shape");
    refuse_tensor(4, (uint64_t[]){huge, huge, 0, 1}, GGML_TYPE_F32, 0, "shape");
    refuse_tensor(1, (uint64_t[]){top}, GGML_TYPE_F32, 0, "shape");
    refuse_tensor(1, (uint64_t[]){UINT64_MAX}, GGML_TYPE_F32, 0, "shape");
    refuse_tensor(1, (uint64_t[]){top - 1}, GGML_TYPE_F32, 0, "shape");
    refuse_tensor(1, (uint64_t[]){top / 2}, GGML_TYPE_F64, 0, "size");
    refuse_tensor(1, (uint64_t[]){top - 32}, GGML_TYPE_I8, 0, "size");
    refuse_tensor(1, (uint64_t[]){TERABYTE}, GGML_TYPE_F32, 0, "truncated: 329853");
    refuse_tensor(1, (uint64_t[]){33}, GGML_TYPE_Q4_0, 0, "rows of 33 values");
    refuse_tensor(1, (uint64_t[]){32}, GGML_TYPE_COUNT, 0, "unknown type");
    refuse_tensor(1, (uint64_t[]){32}, 0xffffffff, 0, "unknown type");
    refuse_tensor(1, (uint64_t[]){32}, 4, 0, "unknown type"); /* a removed one */
    refuse_tensor(1, (uint64_t[]){32}, GGML_TYPE_F32, 32, "at offset 32");
    refuse_tensor(1, (uint64_t[]){32}, GGML_TYPE_F32, UINT64_MAX, "at offset");
    struct bytes b = start(1, 0);
    put_string(&b, "t");
    put_u32(&b, 5);
    refuse(&b, 1000, "5 dimensions");
    b = start(1, 0);
    put_string(&b, "t");
    put_u32(&b, UINT32_MAX);
    refuse(&b, TERABYTE, "4294967295 dimensions");
    b = start(1, 0);
    put_tensor(&b, "a name of 64 bytes is one byte longer than llama.cpp would have ", 0, NULL,
        GGML_TYPE_F32, 0);
    refuse(&b, 1000, "too long or has a NUL");
    b = start(2, 0);
    put_tensor(&b, "twin", 0, NULL, GGML_TYPE_F32, 0);
    put_tensor(&b, "twin", 0, NULL, GGML_TYPE_F32, 32);
    refuse(&b, 1000, "two tensors named 'twin'");
    b = start(40, 0);
    for (int i = 0; i < 40; i++) { /* their sum wraps */
        uint64_t ne = (uint64_t)1 << 59;
        put_tensor(&b, (char[]){(char)('A' + i), 0}, 1, &ne, GGML_TYPE_I8, ne * (uint64_t)i);
    }
    refuse(&b, TERABYTE, "size");
}

static void test_splits(void **state)
{
    (void)state;
    struct bytes b = start(0, 1);
    put_string(&b, "split.count");
    put_u32(&b, GGUF_TYPE_UINT64);
    put_u64(&b, UINT64_MAX - 1);
    struct forebay_error err;
    const char *path = temp_path("many-00001-of-65000.gguf");
    write_file(path, b.data, b.size);
    assert_int_equal(open_checked(path, &err), FOREBAY_OK); /* -2 is not a count */
    b.size -= 8;
    put_u64(&b, 1000000);
    write_file(path, b.data, b.size);
    assert_int_equal(open_checked(path, &err), FOREBAY_E_FORMAT);
    b.size -= 8;
    put_u64(&b, 65000);
    write_file(path, b.data, b.size);
    assert_int_equal(open_checked(path, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, "many-00002-of-65000.gguf"));
}

/* The largest header that passes still opens in seconds. */
static void test_most_tensors(void **state)
{
    (void)state;
    const char *path = temp_path("most.gguf");
    FILE *f = fopen(path, "wb");
    struct bytes b = start(FB_HEADER_MAX_TENSORS, 0);
    for (uint32_t i = 0; i < FB_HEADER_MAX_TENSORS; i++) {
        char name[64];
        snprintf(name, sizeof name, "a.common.beginning.that.makes.comparing.slow.%u", i);
        put_tensor(&b, name, 0, NULL, GGML_TYPE_F32, (uint64_t)32 * i);
        fwrite(b.data, 1, b.size, f);
        b.size = 0;
    }
    fclose(f);
    assert_int_equal(truncate(path, 8 << 20), 0);
    struct forebay_error err;
    uint64_t begin = fb_now_ns();
    assert_int_equal(open_checked(path, &err), FOREBAY_OK);
    double seconds = (double)(fb_now_ns() - begin) * 1e-9;
    print_message("%u tensors: %.2f s\n", FB_HEADER_MAX_TENSORS, seconds);
    assert_true(seconds < 20);
}

/* --- Mutations ------------------------------------------------------------------------------ */

/* A small model with keys of every type, and experts. Returns the size of its header. */
static size_t seed_model(const char *path)
{
    static const char *strings[] = {"a", "", "a longer one"};
    static const float floats[] = {1, 2, 3};
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "tiny");
    gguf_set_val_u32(g, "general.alignment", 32);
    gguf_set_val_u32(g, "tiny.block_count", 2);
    gguf_set_val_u32(g, "tiny.expert_count", 4);
    gguf_set_val_u16(g, "split.no", 0);
    gguf_set_val_u16(g, "split.count", 1);
    gguf_set_val_bool(g, "some.bool", true);
    gguf_set_val_f64(g, "some.f64", 1);
    gguf_set_val_i64(g, "some.i64", 1);
    gguf_set_arr_str(g, "some.strings", strings, 3);
    gguf_set_arr_data(g, "some.floats", GGUF_TYPE_FLOAT32, floats, 3);
    add_tensor(g, "token_embd.weight", GGML_TYPE_F32, 32, 10, 1);
    add_tensor(g, "blk.0.ffn_up_exps.weight", GGML_TYPE_Q4_0, 32, 3, 4);
    add_tensor(g, "blk.0.ffn_up_exps.bias", GGML_TYPE_F32, 3, 4, 1);
    add_tensor(g, "output.weight", GGML_TYPE_F16, 32, 10, 1);
    size_t header = gguf_get_meta_size(g);
    write_model(g, path);
    gguf_free(g);
    return header;
}

static void mutate(char *data, size_t header, size_t *size)
{
    static const uint64_t interesting[] = {0, 1, 2, 31, 32, 63, 64, 127, 255, 256, 65535, 65536,
        INT32_MAX, UINT32_MAX, (uint64_t)1 << 32, (uint64_t)1 << 48, INT64_MAX, UINT64_MAX};
    for (uint64_t n = 1 + rnd() % 3; n > 0; n--) {
        size_t at = rnd() % header;
        uint64_t value = interesting[rnd() % (sizeof interesting / sizeof *interesting)];
        size_t width = (size_t)1 << rnd() % 4;
        switch (rnd() % 4) {
        case 0:
            data[at] = (char)(data[at] ^ (1 << rnd() % 8));
            break;
        case 1:
            data[at] = (char)rnd();
            break;
        case 2:
            memcpy(data + at, &value, at + width <= header ? width : 1);
            break;
        default:
            *size = rnd() % 8 ? *size : rnd() % *size;
        }
    }
}

/* Mutates the header `rounds` times; returns how many of the mutants were accepted. */
static int fuzz(const char *seed, size_t header, int rounds)
{
    const char *path = temp_path("mutant.gguf");
    size_t size;
    int accepted = 0;
    char *good = read_whole(seed, &size), *data = malloc(size);
    struct forebay_error err;
    for (int i = 0; i < rounds; i++) {
        size_t length = size;
        memcpy(data, good, size);
        mutate(data, header, &length);
        remove(path); /* truncating the old one would cost a flush */
        write_file(path, data, length);
        accepted += open_checked(path, &err) == FOREBAY_OK;
    }
    free(good);
    free(data);
    return accepted;
}

static int fuzz_rounds(int rounds)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    rounds /= 4;
#endif
    return rounds;
}

static void test_mutations(void **state)
{
    (void)state;
    const char *seed = temp_path("seed.gguf");
    size_t header = seed_model(seed);
    int rounds = fuzz_rounds(6000);
    random_state = 1;
    int accepted = fuzz(seed, header, rounds);
    print_message("%d of %d mutants accepted\n", accepted, rounds);
    assert_true(accepted > rounds / 100 && accepted < rounds); /* both outcomes were tested */
}

static void test_mutations_of_shared_models(void **state)
{
    (void)state;
    struct model_list list;
    find_models(&list);
    random_state = 2;
    for (int m = 0; m < list.n; m++) {
        struct stat st;
        if (stat(list.path[m], &st) == 0 && st.st_size < 2000000) {
            fuzz(list.path[m], 8192, fuzz_rounds(40));
        }
    }
    free_models(&list);
}

int main(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    const struct rlimit limit = {MEMORY_LIMIT, MEMORY_LIMIT};
    setrlimit(RLIMIT_AS, &limit);
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_most_tensors),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_mutations_of_shared_models),
    };
    return cmocka_run_group_tests(tests, NULL, temp_remove);
}
