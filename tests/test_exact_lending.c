/*
 * test_exact_lending.c - logits stay bit-identical while slots lend memory to batches: prompts of
 * several lengths, and single tokens between them.
 */
#include "exact.h"
#include "synth/synth.h"

#include "base/units.h"

#define BATCH 300

struct lending {
    const char *arch;
    uint32_t n_seq;
    int threads;
};

static const struct lending cases[] = {
    {"qwen3moe", 1, 1},
    {"qwen3moe", 4, 2},
    {"gpt-oss", 1, 1},
    {"qwen3next", 1, 1},
};

/* Tokens evaluated in one call, one after another. */
static const size_t calls[] = {
    300, 1, 1, 1, 1, 1, 1, 40, 1, 1, 1, 1, 1, 250, 90, 1, 1, 1, 1, 1, 2, 1, 1, 5, 1, 1, 1, 1, 1};

static void make_model(const char *path, const char *arch)
{
    struct fb_synth_shape s;
    struct forebay_error err;
    fb_synth_shape_init(&s);
    s.arch = arch;
    s.type = "Q8_0";
    s.layers = 4;
    s.embd = 256;
    s.heads = 4;
    s.ff = 512;
    s.vocab = 300;
    s.experts = 32;
    s.experts_used = 4;
    if (fb_synth_random(&s, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
}

struct result {
    struct forebay_placement placement;
    struct forebay_stats stats;
    struct rows rows; /* the last one of each call */
};

static void run(
    const char *path, const struct forebay_model_options *options, struct result *result)
{
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_error err;
    struct rows *rows = &result->rows;
    int32_t tokens[BATCH];
    int next = 0;
    if (forebay_model_load(path, options, &model, &err) != FOREBAY_OK) {
        fail_msg("%s (%s)", err.message, err.hint);
    }
    rows->n_vocab = (size_t)forebay_model_n_vocab(model);
    forebay_model_placement(model, &result->placement);
    assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
    for (int c = 0; c < COUNT(calls); c++) {
        for (size_t i = 0; i < calls[c]; i++, next++) {
            tokens[i] = 1 + (37 * next + next * next / 3) % 290;
        }
        if (forebay_eval(session, tokens, calls[c], false, &err) != FOREBAY_OK) {
            fail_msg("%s", err.message);
        }
        rows_add(rows, forebay_logits(session, 0));
    }
    forebay_stats_get(session, &result->stats);
    forebay_session_free(session);
    forebay_model_free(model);
}

/* In a process of its own: budgets count all that a process holds, and earlier runs leave memory
 * behind. */
static struct result run_apart(const char *path, const struct forebay_model_options *options)
{
    struct result result = {0};
    FILE *file = tmpfile();
    pid_t child = fork();
    if (child == 0) {
        run(path, options, &result);
        fwrite(&result, sizeof result, 1, file);
        fwrite(result.rows.values, sizeof(float), result.rows.n * result.rows.n_vocab, file);
        _exit(fflush(file) ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    rewind(file);
    assert_int_equal(fread(&result, sizeof result, 1, file), 1);
    size_t n = result.rows.n * result.rows.n_vocab;
    result.rows.values = malloc(n * sizeof(float));
    assert_int_equal(fread(result.rows.values, sizeof(float), n, file), n);
    fclose(file);
    return result;
}

static void test_case(void **state)
{
    const struct lending *c = *state;
    const char *path = temp_path("lending.gguf");
    struct forebay_model_options options;
    make_model(path, c->arch);
    forebay_model_options_init(&options);
    options.ctx = 1024;
    options.batch = BATCH;
    options.n_seq = c->n_seq;
    options.threads = c->threads;
    options.plain = true;
    struct result want = run_apart(path, &options);
    options.plain = false;
    struct result all = run_apart(path, &options); /* in memory */
    assert_true(same_rows(&want.rows, &all.rows));
    for (uint64_t part = 0; part < 3; part++) {
        options.mem_bytes = all.placement.minimum_bytes + weights_bytes_of(path) * part / 4;
        struct result got = run_apart(path, &options);
        assert_true(same_rows(&want.rows, &got.rows));
        assert_true(got.placement.lent_bytes > 0 && !got.placement.fits);
        assert_true(got.stats.demand_bytes > 0);
        rows_free(&got.rows);
    }
    rows_free(&all.rows);
    rows_free(&want.rows);
}

int main(void)
{
    struct CMUnitTest tests[COUNT(cases)];
    for (int i = 0; i < COUNT(cases); i++) {
        tests[i] = (struct CMUnitTest){
            .name = cases[i].arch, .test_func = test_case, .initial_state = (void *)&cases[i]};
    }
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    return _cmocka_run_group_tests("exact_lending", tests, COUNT(tests), NULL, temp_remove);
}
