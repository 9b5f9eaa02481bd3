/* test_session_keep.c - forebay_session_keep: tokens evaluated again give the same bits. And the
 * limits on rows of logits. */
#include <math.h>

#include "exact.h"

#include "synth/synth.h"

enum { TOKENS = 150, KEPT = 90 }; /* both longer than the sliding window of 64 */

struct fixture {
    struct forebay_model *model;
    struct forebay_session *session;
    int32_t tokens[TOKENS];
    size_t row_bytes;
};

static void open_model(struct fixture *f, const char *arch, uint32_t others)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.layers = 2;
    s.embd = 256;
    s.heads = 4;
    s.ff = 256;
    s.vocab = 300;
    s.experts = strcmp(arch, "qwen3moe") == 0 ? 8 : 0;
    s.experts_used = s.experts ? 2 : 0;
    if (fb_synth_random(&s, "keep.gguf", NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    struct forebay_model_options options;
    forebay_model_options_init(&options);
    options.ctx = 256;
    options.threads = 1;
    options.n_kept = others;
    options.weights_mem_bytes = s.experts ? 1100 << 10 : 0;
    if (forebay_model_load("keep.gguf", &options, &f->model, &err) != FOREBAY_OK ||
        forebay_session_new(f->model, &f->session, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    remove("keep.gguf"); /* still open in the process */
    f->row_bytes = (size_t)forebay_model_n_vocab(f->model) * sizeof(float);
    for (int i = 0; i < TOKENS; i++) {
        f->tokens[i] = (i * 37 + i * i) % 300;
    }
}

static void close_model(struct fixture *f)
{
    forebay_session_free(f->session);
    forebay_model_free(f->model);
}

/* Evaluates tokens [from, to) in one pass. Returns a copy of the last row. */
static float *eval(struct fixture *f, int from, int to)
{
    struct forebay_error err;
    if (forebay_eval(f->session, f->tokens + from, (size_t)(to - from), false, &err) !=
        FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    float *row = malloc(f->row_bytes);
    memcpy(row, forebay_logits(f->session, 0), f->row_bytes);
    return row;
}

static void assert_same(struct fixture *f, float *a, float *b, bool same)
{
    assert_int_equal(memcmp(a, b, f->row_bytes) == 0, same);
}

/* Attention: any number of tokens can be kept, and different ones may follow. */
static void go_back(const char *arch)
{
    struct fixture f;
    open_model(&f, arch, 0);
    float *first = eval(&f, 0, KEPT);
    float *second = eval(&f, KEPT, TOKENS);
    assert_int_equal(forebay_session_keep(f.session, 999), TOKENS);
    assert_int_equal(forebay_session_keep(f.session, KEPT), KEPT);
    assert_int_equal(forebay_session_n_past(f.session), KEPT);

    f.tokens[KEPT + 1] ^= 1; /* a different text from here */
    float *other = eval(&f, KEPT, TOKENS);
    assert_same(&f, other, second, false);
    f.tokens[KEPT + 1] ^= 1;
    assert_int_equal(forebay_session_keep(f.session, KEPT), KEPT);
    float *again = eval(&f, KEPT, TOKENS);
    assert_same(&f, again, second, true);

    assert_int_equal(forebay_session_keep(f.session, 0), 0);
    float *from_start = eval(&f, 0, KEPT);
    assert_same(&f, from_start, first, true);
    free(first);
    free(second);
    free(other);
    free(again);
    free(from_start);
    close_model(&f);
}

static void test_attention(void **state)
{
    (void)state;
    go_back("qwen3moe");
}

static void test_sliding_window(void **state)
{
    (void)state;
    go_back("gemma3");
}

/* Appends tokens from, from + 1, ... of the text to a sequence. */
static void append(struct fixture *f, int seq, int from, int n)
{
    struct forebay_error err;
    for (int i = 0; i < n; i++) {
        struct forebay_item item = {f->tokens[(from + i) % TOKENS], seq, true};
        if (forebay_decode(f->session, &item, 1, &err) != FOREBAY_OK) {
            fail_msg("%s", err.message);
        }
    }
}

/* Cells that no later token looks at are used for other sequences. Then the sequence can be cut
 * only where the window is complete, and what follows is right. */
static void test_window_lost(void **state)
{
    (void)state;
    struct fixture f;
    for (int kept = 60; kept <= 100; kept += 40) {
        open_model(&f, "gemma3", 2);
        append(&f, 2, 0, 30);
        append(&f, 0, 0, TOKENS);
        assert_int_equal(forebay_seq_shortest(f.session, 0), 1);
        assert_int_equal(forebay_seq_keep(f.session, 2, 0), 0);
        append(&f, 1, 0, 60);
        uint32_t shortest = forebay_seq_shortest(f.session, 0);
        assert_in_range(shortest, 61, 100);
        bool possible = (uint32_t)kept >= shortest;
        assert_int_equal(forebay_seq_copy(f.session, 0, 2, TOKENS), TOKENS);
        assert_int_equal(forebay_seq_keep(f.session, 2, 0), 0);
        assert_int_equal(forebay_seq_copy(f.session, 0, 2, (uint32_t)kept), possible ? kept : 0);
        assert_int_equal(forebay_seq_keep(f.session, 0, (uint32_t)kept), possible ? kept : 0);
        assert_int_equal(forebay_seq_length(f.session, 0), possible ? kept : 0);
        if (possible) {
            append(&f, 0, kept, 1);
            float *reused = malloc(f.row_bytes);
            memcpy(reused, forebay_logits(f.session, 0), f.row_bytes);
            for (int i = 0; i < 3; i++) {
                forebay_seq_keep(f.session, i, 0);
            }
            append(&f, 0, 0, kept + 1);
            const float *want = forebay_logits(f.session, 0);
            for (size_t i = 0; i < f.row_bytes / sizeof *want; i++) {
                assert_true(fabsf(want[i] - reused[i]) < 1e-2f * (1 + fabsf(want[i])));
            }
            free(reused);
        }
        close_model(&f);
    }
}

/* Recurrent state cannot be cut: nothing is kept, and tokens that follow are computed correctly. */
static void test_recurrent(void **state)
{
    struct fixture f;
    (void)state;
    open_model(&f, "jamba", 0);
    float *first = eval(&f, 0, KEPT);
    free(eval(&f, KEPT, TOKENS));
    assert_int_equal(forebay_session_keep(f.session, TOKENS), TOKENS);
    assert_int_equal(forebay_session_keep(f.session, KEPT), 0);
    assert_int_equal(forebay_session_n_past(f.session), 0);
    float *again = eval(&f, 0, KEPT);
    assert_same(&f, again, first, true);
    free(first);
    free(again);
    close_model(&f);
}

/* There is memory for one row of logits per sequence, unless more was asked for. Too many are
 * refused, and the session stays usable. */
static void test_rows(void **state)
{
    struct fixture f;
    struct forebay_error err;
    (void)state;
    open_model(&f, "qwen3moe", 0);
    assert_int_equal(forebay_eval(f.session, f.tokens, 2, true, &err), FOREBAY_E_USAGE);
    struct forebay_item items[2] = {{f.tokens[0], 0, true}, {f.tokens[1], 0, true}};
    assert_int_equal(forebay_decode(f.session, items, 2, &err), FOREBAY_E_USAGE);
    assert_int_equal(forebay_session_n_past(f.session), 0);
    float *whole = eval(&f, 0, 2);
    assert_int_equal(forebay_session_keep(f.session, 0), 0);
    items[0].logits = false;
    assert_int_equal(forebay_decode(f.session, items, 2, &err), FOREBAY_OK);
    float *row = malloc(f.row_bytes);
    memcpy(row, forebay_logits(f.session, 1), f.row_bytes);
    assert_same(&f, row, whole, true);
    free(row);
    free(whole);
    close_model(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_sliding_window),
        cmocka_unit_test(test_window_lost),
        cmocka_unit_test(test_recurrent),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
