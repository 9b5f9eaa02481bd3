/*
 * test_states.c - saved states of sequences: which model they belong to, and that nothing in a file
 * is trusted. llama.cpp asserts on some of these files, and allocates by the numbers in others.
 */
#include "exact.h"

#include <fcntl.h>

#include "synth/synth.h"

enum { N = 40, HEAD = 3 * 4 + N * 4 }; /* bytes before the memory's own data */

static int32_t tokens[N];

static void make_model(const char *arch)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.layers = 4;
    s.embd = 256;
    s.heads = 4;
    s.ff = 256;
    s.vocab = 300;
    if (fb_synth_random(&s, "states.gguf", NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

static struct forebay_model *load_model(uint32_t batch, bool repack)
{
    struct forebay_model_options options;
    struct forebay_model *model;
    struct forebay_error err;
    forebay_model_options_init(&options);
    options.ctx = 256;
    options.batch = batch;
    options.n_kept = 1;
    options.repack = repack;
    options.threads = 1;
    if (forebay_model_load("states.gguf", &options, &model, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return model;
}

/* --- Which model --------------------------------------------------------------------------- */

static uint64_t fingerprint(uint32_t batch, bool repack)
{
    struct forebay_model *model = load_model(batch, repack);
    uint64_t print = 0;
    assert_int_equal(forebay_state_fingerprint(model, &print, NULL), FOREBAY_OK);
    forebay_model_free(model);
    return print;
}

/* Exchanges the data of two tensors of the same shape; header, size and time stay. */
static void exchange(const char *a, const char *b)
{
    struct forebay_file *file;
    struct forebay_tensor_info t, x = {0}, y = {0};
    struct forebay_file_info info;
    struct stat st;
    assert_int_equal(stat("states.gguf", &st), 0);
    assert_int_equal(forebay_file_open("states.gguf", &file, NULL), FOREBAY_OK);
    forebay_file_describe(file, &info);
    for (int i = 0; i < info.n_tensors; i++) {
        forebay_file_tensor(file, i, &t);
        x = strcmp(t.name, a) == 0 ? t : x;
        y = strcmp(t.name, b) == 0 ? t : y;
    }
    assert_true(x.bytes > 0 && x.bytes == y.bytes);
    char *p = malloc(x.bytes), *q = malloc(x.bytes);
    int fd = open("states.gguf", O_RDWR);
    assert_int_equal(pread(fd, p, x.bytes, (off_t)x.offset), x.bytes);
    assert_int_equal(pread(fd, q, x.bytes, (off_t)y.offset), x.bytes);
    assert_int_equal(pwrite(fd, q, x.bytes, (off_t)x.offset), x.bytes);
    assert_int_equal(pwrite(fd, p, x.bytes, (off_t)y.offset), x.bytes);
    assert_int_equal(futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}), 0);
    close(fd);
    free(p);
    free(q);
    forebay_file_free(file);
}

static void test_fingerprint(void **state)
{
    (void)state;
    make_model("llama");
    uint64_t print = fingerprint(64, true);
    assert_true(fingerprint(64, true) == print);
    assert_true(fingerprint(32, true) != print); /* other passes, other last bits */
    assert_true(fingerprint(64, false) != print);
    exchange("blk.0.attn_q.weight", "blk.2.attn_q.weight");
    assert_true(fingerprint(64, true) != print);
    exchange("blk.0.attn_q.weight", "blk.2.attn_q.weight");
    assert_true(fingerprint(64, true) == print);
    exchange("blk.1.ffn_down.weight", "blk.3.ffn_down.weight");
    assert_true(fingerprint(64, true) != print);
    remove("states.gguf");
}

/* --- What is in a file --------------------------------------------------------------------- */

struct saved {
    unsigned char *bytes;
    size_t n;
};

static struct saved read_state(void)
{
    struct saved s = {malloc(1 << 24), 0};
    FILE *f = fopen("states.kv", "rb");
    assert_non_null(f);
    s.n = fread(s.bytes, 1, 1 << 24, f);
    fclose(f);
    return s;
}

static enum forebay_status load_bytes(
    struct forebay_session *session, const unsigned char *bytes, size_t n, size_t claimed)
{
    FILE *f = fopen("states.kv", "wb");
    struct forebay_error err = {0};
    fwrite(bytes, 1, n, f);
    fclose(f);
    enum forebay_status status =
        forebay_seq_load(session, 1, tokens, N, "states.kv", claimed, &err);
    if (status != FOREBAY_OK) {
        assert_true(err.message[0] != 0);
        assert_int_equal(forebay_seq_length(session, 1), 0);
    }
    return status;
}

static void check_cuts(struct forebay_session *session, const struct saved *s)
{
    for (size_t cut = 0; cut < s->n; cut += cut < HEAD + 64 ? 3 : s->n / 37) {
        assert_int_not_equal(load_bytes(session, s->bytes, cut, cut), FOREBAY_OK);
        /* Other data follows, as in the files of serve/kv_store.h. */
        unsigned char *longer = calloc(1, s->n + 4096);
        memcpy(longer, s->bytes, cut);
        assert_int_not_equal(load_bytes(session, longer, s->n + 4096, cut), FOREBAY_OK);
        free(longer);
    }
    unsigned char *longer = calloc(1, s->n + 100);
    memcpy(longer, s->bytes, s->n);
    assert_int_equal(load_bytes(session, longer, s->n + 100, s->n), FOREBAY_OK);
    assert_int_not_equal(load_bytes(session, longer, s->n + 100, s->n + 100), FOREBAY_OK);
    free(longer);
}

static void check_numbers(struct forebay_session *session, const struct saved *s)
{
    static const uint32_t values[] = {0, 2, 255, 1u << 16, 1u << 31, UINT32_MAX};
    unsigned char *copy = malloc(s->n);
    for (size_t at = 0; at < HEAD + 8; at += 4) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            uint32_t old;
            memcpy(copy, s->bytes, s->n);
            memcpy(&old, copy + at, 4);
            memcpy(copy + at, &values[v], 4);
            if (old != values[v]) {
                assert_int_not_equal(load_bytes(session, copy, s->n, s->n), FOREBAY_OK);
            }
        }
    }
    for (size_t at = HEAD + 8; at < HEAD + 8 + 400 && at + 4 <= s->n; at += 4) {
        memcpy(copy, s->bytes, s->n); /* positions and sequences: an error or not, but no crash */
        memset(copy + at, 0xff, 4);
        load_bytes(session, copy, s->n, s->n);
    }
    free(copy);
}

static void check_files(const char *arch)
{
    struct forebay_session *session;
    struct forebay_error err;
    make_model(arch);
    struct forebay_model *model = load_model(64, true);
    assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
    for (int i = 0; i < N; i++) {
        tokens[i] = 10 + i * 7;
    }
    assert_int_equal(forebay_eval(session, tokens, N, false, &err), FOREBAY_OK);
    assert_int_equal(forebay_seq_save(session, 0, tokens, N, "states.kv", &err), FOREBAY_OK);
    struct saved s = read_state();
    assert_int_equal(load_bytes(session, s.bytes, s.n, s.n), FOREBAY_OK);
    assert_int_equal(forebay_seq_length(session, 1), N);
    check_cuts(session, &s);
    check_numbers(session, &s);
    tokens[5]++; /* the file is of other tokens */
    assert_int_equal(load_bytes(session, s.bytes, s.n, s.n), FOREBAY_E_FORMAT);
    tokens[5]--;
    remove("states.kv");
    assert_int_equal(mkfifo("states.kv", 0600), 0);
    assert_int_equal(forebay_seq_load(session, 1, tokens, N, "states.kv", s.n, &err), FOREBAY_E_IO);
    remove("states.kv");
    assert_int_equal(load_bytes(session, s.bytes, s.n, s.n), FOREBAY_OK); /* and it goes on */
    struct forebay_item item = {tokens[0], 1, true};
    assert_int_equal(forebay_decode(session, &item, 1, &err), FOREBAY_OK);
    free(s.bytes);
    forebay_session_free(session);
    forebay_model_free(model);
    remove("states.gguf");
    remove("states.kv");
}

static void test_attention(void **state)
{
    (void)state;
    check_files("llama");
}

static void test_window(void **state)
{
    (void)state;
    check_files("gemma3");
}

static void test_hybrid(void **state)
{
    (void)state;
    check_files("jamba");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_hybrid),
    };
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
