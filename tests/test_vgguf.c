/*
 * test_vgguf.c - the virtual GGUF: any read of it compared with a naive image, errors while
 * reading, the cost of tensors that are not read, and llama.cpp itself loading every shared model
 * through it.
 */
#include "model_files.h"

#include <errno.h>

#include "base/random.h"
#include "base/units.h"
#include "model/catalog.h"
#include "model/vgguf.h"

#include "ggml-backend.h"
#include "llama.h"

#define POISON 0xa5

static struct fb_catalog *open_ok(const char *path)
{
    struct fb_catalog *c = NULL;
    struct forebay_error err = {0};
    if (fb_catalog_open(path, false, &c, &err) != FOREBAY_OK) {
        fail_msg("%s (%s)", err.message, err.hint);
    }
    return c;
}

static FILE *stream_ok(
    struct fb_catalog *c, struct fb_vgguf_stats *stats, struct forebay_error *io_error)
{
    FILE *f = NULL;
    struct forebay_error err = {0};
    if (fb_vgguf_open(c, stats, io_error, &f, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return f;
}

/* --- The naive image ------------------------------------------------------------------------ */

struct image {
    struct gguf_context *meta; /* as gguf.h parses the stream's header */
    size_t header;
    size_t size;
    unsigned char *bytes;
};

/* The header from the stream (another test compares it), every tensor from its file, and zeros
 * between them. */
static struct image make_image(struct fb_catalog *c)
{
    struct image m;
    FILE *f = stream_ok(c, NULL, NULL);
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    m.meta = gguf_init_from_file_ptr(f, params);
    assert_non_null(m.meta);
    m.header = gguf_get_data_offset(m.meta);
    m.size = m.header + data_size(m.meta);
    m.bytes = calloc(1, m.size);
    rewind(f);
    assert_int_equal(fread(m.bytes, 1, m.header, f), m.header);
    fclose(f);
    assert_int_equal(gguf_get_n_tensors(m.meta), c->n_tensors);
    for (int i = 0; i < c->n_tensors; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        assert_string_equal(gguf_get_tensor_name(m.meta, i), t->name);
        unsigned char *to = m.bytes + m.header + gguf_get_tensor_offset(m.meta, i);
        assert_int_equal(
            fb_file_read(c->files[t->file], to, t->bytes, t->offset, NULL), FOREBAY_OK);
    }
    return m;
}

static void free_image(struct image *m)
{
    gguf_free(m->meta);
    free(m->bytes);
}

static void check_range(FILE *f, const struct image *m, size_t at, size_t length)
{
    unsigned char *got = malloc(length + 1);
    memset(got, POISON, length + 1);
    assert_int_equal(fseeko(f, (off_t)at, SEEK_SET), 0);
    size_t expected = at < m->size ? fb_min(length, m->size - at) : 0;
    assert_int_equal(fread(got, 1, length, f), expected);
    assert_memory_equal(got, m->bytes + (at < m->size ? at : 0), expected);
    assert_int_equal(ftello(f), at + expected);
    assert_int_equal(got[expected], POISON); /* nothing past the end */
    free(got);
}

/* Any range, read in any order, equals the image; loading as llama.cpp does reads each byte
 * once. */
static void check_stream(struct fb_catalog *c)
{
    struct image m = make_image(c);
    struct fb_vgguf_stats stats = {0};
    FILE *f = stream_ok(c, &stats, NULL);
    assert_int_equal(stats.read_bytes, 0);
    assert_int_equal(fseeko(f, 0, SEEK_END), 0);
    assert_int_equal(ftello(f), m.size);
    rewind(f);
    check_range(f, &m, 0, m.header);
    for (int i = 0; i < c->n_tensors; i++) { /* as llama.cpp does */
        check_range(f, &m, m.header + gguf_get_tensor_offset(m.meta, i), c->tensors[i].bytes);
    }
    assert_int_equal(stats.read_bytes, c->tensor_bytes);

    check_range(f, &m, 0, m.size + 1000);
    check_range(f, &m, m.size, 10);
    check_range(f, &m, m.size + 10, 10);
    uint64_t state = 1;
    for (int i = 0; i < 60; i++) {
        uint64_t random = fb_random_next(&state);
        /* most of the file is padding: choose ranges near a tensor */
        size_t tensor = (size_t)(random >> 40) % (size_t)c->n_tensors;
        size_t at = m.header + gguf_get_tensor_offset(m.meta, (int64_t)tensor);
        at += (size_t)((random >> 33) % 60000);
        at -= fb_min(at, i % 10000);
        size_t length = (size_t)((random >> 20) % (i % 3 ? 100 : 50000));
        check_range(f, &m, at, length);
    }
    errno = 0;
    assert_int_equal(fseeko(f, -1, SEEK_SET), -1);
    fclose(f);
    free_image(&m);
}

static void test_streams(void **state)
{
    (void)state;
    struct model_list list;
    find_models(&list);
    for (int i = 0; i < list.n; i++) {
        struct stat st;
        if (stat(list.path[i], &st) == 0 && st.st_size < 10000000) {
            struct fb_catalog *c = open_ok(list.path[i]);
            check_stream(c);
            fb_catalog_free(c);
        }
    }
    free_models(&list);
}

/* A split set made here, so that a checkout without the shared models tests merging, too: another
 * alignment, a part without tensors, and tensors of zero bytes. */
static void test_own_split(void **state)
{
    (void)state;
    static const char *const name[] = {
        "s-00001-of-00003.gguf", "s-00002-of-00003.gguf", "s-00003-of-00003.gguf"};
    static const float numbers[] = {1, 2, 3};
    static const char *words[] = {"a", "", "word"};
    for (int no = 0; no < 3; no++) {
        struct gguf_context *g = gguf_init_empty();
        if (no == 0) {
            gguf_set_val_str(g, "general.architecture", "tiny");
            gguf_set_val_u32(g, "general.alignment", 32);
            gguf_set_arr_data(g, "numbers", GGUF_TYPE_FLOAT32, numbers, 3);
            gguf_set_arr_str(g, "words", words, 3);
            gguf_set_arr_str(g, "no_words", words, 0);
        }
        gguf_set_val_u16(g, "split.no", (uint16_t)no);
        gguf_set_val_u16(g, "split.count", 3);
        gguf_set_val_i32(g, "split.tensors.count", 4);
        if (no == 1) {
            add_tensor(g, "odd.weight", GGML_TYPE_I8, 33, 1, 1);
            add_tensor(g, "blk.0.ffn_up_exps.weight", GGML_TYPE_Q4_0, 32, 3, 4);
        } else if (no == 2) {
            add_tensor(g, "none.weight", GGML_TYPE_F32, 0, 1, 1);
            add_tensor(g, "last.weight", GGML_TYPE_I8, 7, 1, 1);
        }
        write_model(g, temp_path(name[no]));
        gguf_free(g);
    }
    struct fb_catalog *c = open_ok(temp_path(name[0]));
    assert_int_equal(c->n_tensors, 4);
    check_stream(c);
    struct image m = make_image(c);
    assert_int_equal(gguf_get_n_kv(m.meta), 5);
    assert_int_equal(gguf_find_key(m.meta, "split.count"), -1);
    assert_string_equal(gguf_get_arr_str(m.meta, gguf_find_key(m.meta, "words"), 2), "word");
    free_image(&m);
    fb_catalog_free(c);
}

/* The serialised keys, without tensors. */
static char *key_bytes(const struct gguf_context *from, size_t *size)
{
    struct gguf_context *g = gguf_init_empty();
    gguf_set_kv(g, from);
    gguf_remove_key(g, "general.alignment");
    *size = gguf_get_meta_size(g);
    char *bytes = malloc(*size);
    gguf_get_meta_data(g, bytes);
    gguf_free(g);
    return bytes;
}

/* The stream has the keys of the file; that of the split set those of the single file. */
static void test_keys(void **state)
{
    (void)state;
    static const char *const name[] = {
        "models/stories260K-moe8.gguf", "models/split/stories260K-moe8-00001-of-00003.gguf"};
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    struct gguf_context *file = gguf_init_from_file(shared_file(name[0]), params);
    size_t size, n;
    char *expected = key_bytes(file, &size);
    for (int i = 0; i < 2; i++) {
        struct fb_catalog *c = open_ok(shared_file(name[i]));
        struct image m = make_image(c);
        char *got = key_bytes(m.meta, &n);
        assert_int_equal(n, size);
        assert_memory_equal(got, expected, n);
        free(got);
        free_image(&m);
        fb_catalog_free(c);
    }
    free(expected);
    gguf_free(file);
}

/* --- Errors and cost ------------------------------------------------------------------------ */

static struct fb_catalog *two_tensors(const char *path)
{
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "tiny");
    add_tensor(g, "a.weight", GGML_TYPE_F32, 1024, 64, 1);
    add_tensor(g, "b.weight", GGML_TYPE_F32, 1024, 64, 1);
    write_model(g, path);
    gguf_free(g);
    return open_ok(path);
}

static void test_read_error(void **state)
{
    (void)state;
    const char *path = temp_path("cut.gguf");
    struct fb_catalog *c = two_tensors(path);
    struct forebay_error io_error = {0};
    FILE *f = stream_ok(c, NULL, &io_error);
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    struct gguf_context *g = gguf_init_from_file_ptr(f, params);
    off_t start = (off_t)gguf_get_data_offset(g);
    char *to = malloc(c->tensors[0].bytes);
    assert_int_equal(truncate(path, (off_t)(c->tensors[1].offset + 100)), 0);
    assert_int_equal(fseeko(f, start, SEEK_SET), 0);
    assert_int_equal(fread(to, c->tensors[0].bytes, 1, f), 1);
    assert_int_equal(fseeko(f, start + (off_t)gguf_get_tensor_offset(g, 1), SEEK_SET), 0);
    assert_int_equal(fread(to, c->tensors[1].bytes, 1, f), 0);
    assert_true(ferror(f));
    assert_true(io_error.status != FOREBAY_OK);
    assert_non_null(strstr(io_error.message, path));
    fclose(f);

    /* A file that has changed before is not opened. */
    struct forebay_error err = {0};
    assert_int_equal(fb_vgguf_open(c, NULL, NULL, &f, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, path));
    free(to);
    gguf_free(g);
    fb_catalog_free(c);
}

/* Seeking to tensors without reading them reads nothing, whatever their size; reading a small one
 * after a large one reads only that. */
static void test_unread_is_free(void **state)
{
    (void)state;
    const char *path = temp_path("sparse.gguf");
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", "tiny");
    add_tensor(g, "a.weight", GGML_TYPE_F32, 1000000, 100000, 1); /* 400 GB */
    add_tensor(g, "b.weight", GGML_TYPE_F32, 10, 1, 1);
    add_tensor(g, "c.weight", GGML_TYPE_F32, 1000000, 100000, 1);
    size_t header = gguf_get_meta_size(g);
    char *data = malloc(header);
    gguf_get_meta_data(g, data);
    write_file(path, data, header);
    assert_int_equal(truncate(path, (off_t)(header + data_size(g))), 0);
    free(data);
    gguf_free(g);

    struct fb_catalog *c = open_ok(path);
    struct fb_vgguf_stats stats = {0};
    FILE *f = stream_ok(c, &stats, NULL);
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    g = gguf_init_from_file_ptr(f, params);
    uint64_t begin = fb_now_ns();
    for (int i = 0; i < 3; i++) {
        char to[40];
        off_t at = (off_t)(gguf_get_data_offset(g) + gguf_get_tensor_offset(g, i));
        assert_int_equal(fseeko(f, at, SEEK_SET), 0);
        assert_int_equal(ftello(f), at);
        assert_int_equal(fread(to, i == 1 ? 40 : 0, 1, f), i == 1);
    }
    assert_true(fb_now_ns() - begin < 10000000);
    assert_int_equal(stats.read_bytes, 40);
    fclose(f);
    gguf_free(g);
    fb_catalog_free(c);
}

/* --- llama.cpp ------------------------------------------------------------------------------ */

#define N_TOKENS 6

static void ignore_log(enum ggml_log_level level, const char *text, void *user)
{
    (void)level, (void)text, (void)user;
}

static struct llama_model_params model_params(void)
{
    struct llama_model_params params = llama_model_default_params();
    params.load_mode = LLAMA_LOAD_MODE_NONE;
    params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    params.n_gpu_layers = 0;
    return params;
}

/* Logits of a few tokens; frees the model. */
static float *logits_of(struct llama_model *model, size_t *n)
{
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 64;
    params.n_threads = params.n_threads_batch = 1;
    struct llama_context *ctx = llama_init_from_model(model, params);
    assert_non_null(ctx);
    llama_token tokens[N_TOKENS] = {1, 5, 9, 2, 77, 33};
    assert_int_equal(llama_decode(ctx, llama_batch_get_one(tokens, N_TOKENS)), 0);
    *n = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(model));
    float *logits = malloc(*n * sizeof *logits);
    memcpy(logits, llama_get_logits_ith(ctx, -1), *n * sizeof *logits);
    llama_free(ctx);
    llama_model_free(model);
    return logits;
}

/* The same model loaded from its file and through the stream gives bit-identical logits. */
static void check_llama(const char *path)
{
    struct llama_model *direct = llama_model_load_from_file(path, model_params());
    assert_non_null(direct);
    uint64_t size = llama_model_size(direct), parameters = llama_model_n_params(direct);
    size_t n, m;
    float *expected = logits_of(direct, &n);

    struct fb_catalog *c = open_ok(path);
    struct fb_vgguf_stats stats = {0};
    FILE *f = stream_ok(c, &stats, NULL);
    struct llama_model *model = llama_model_load_from_file_ptr(f, model_params());
    fclose(f);
    assert_non_null(model);
    assert_int_equal(llama_model_size(model), size);
    assert_int_equal(llama_model_n_params(model), parameters);
    float *got = logits_of(model, &m);
    assert_int_equal(m, n);
    assert_memory_equal(got, expected, n * sizeof *got);
    for (size_t i = 0; i < n; i++) {
        assert_true(got[i] == got[i]); /* no NaN: something was computed */
    }
    /* Every tensor once; the embedding twice where it is also the output. */
    int embedding = fb_catalog_find(c, "token_embd.weight");
    bool tied = fb_catalog_find(c, "output.weight") < 0;
    uint64_t twice = tied ? c->tensors[embedding].bytes : 0;
    assert_true(stats.read_bytes <= c->tensor_bytes + twice);
    free(expected);
    free(got);
    fb_catalog_free(c);
}

static void test_llama_loads_it(void **state)
{
    (void)state;
    struct model_list list;
    find_models(&list);
    const char *dir = getenv("FOREBAY_LLAMA_LIB_DIR");
    llama_log_set(ignore_log, NULL);
    ggml_backend_load_all_from_path(dir ? dir : FOREBAY_LLAMA_LIB_DIR);
    llama_backend_init();
    for (int i = 0; i < list.n; i++) {
        struct stat st;
        if (stat(list.path[i], &st) == 0 && st.st_size < 10000000) {
            print_message("%s\n", list.path[i]);
            check_llama(list.path[i]);
        }
    }
    llama_backend_free();
    free_models(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_own_split),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_read_error),
        cmocka_unit_test(test_unread_is_free),
        cmocka_unit_test(test_llama_loads_it),
    };
    return cmocka_run_group_tests(tests, NULL, temp_remove);
}
