/*
 * test_exact_governor.c - logits stay bit-identical while weights give memory back and regain it:
 * the governor sees an invented machine, which is short of memory every other moment.
 */
#include "exact.h"
#include "small_synth.h"

#include <stdatomic.h>
#include <time.h>

#include "backend/device_state.h"
#include "base/units.h"
#include "os/watch.h"

struct governed {
    const char *arch, *name;
    bool repack;
    int percent; /* of the weights; 0: the smallest budget that works */
    uint32_t batch;
};

/* Own pools at 60 %, everything resident at 100, one pool for all layers and a small ring at 0. */
static const struct governed cases[] = {
    {"qwen3moe", "own pools, repacked", true, 60, 37},
    {"qwen3moe", "own pools, as stored", false, 60, 7},
    {"qwen3moe", "shared pool, repacked", true, 0, 37},
    {"qwen3moe", "shared pool, as stored", false, 0, 7},
    {"qwen3moe", "all resident, repacked", true, 100, 37},
    {"mixtral", "all resident, as stored", false, 100, 37},
    {"gpt-oss", "own pools, repacked", true, 50, 37},
    {"llama", "dense, half resident, repacked", true, 60, 37},
    {"llama", "dense, half resident, as stored", false, 60, 7},
    {"llama", "dense, all resident, repacked", true, 100, 37},
    {"llama", "dense, all resident, as stored", false, 100, 37},
};

/* --- A machine that is short of memory now and then ---------------------------------------- */

static atomic_uint n_looks;

/* Three looks of too little (the amount varies), nine of plenty. The reserve is 256 KiB. */
static void invented_machine(struct fb_memory_state *out)
{
    unsigned n = atomic_fetch_add(&n_looks, 1);
    uint64_t little = (n * 2654435761u >> 16) % (256 * FB_KIB);
    *out = (struct fb_memory_state){
        .total_bytes = 2 * FB_MIB,
        .available_bytes = n % 12 < 3 ? little : FB_GIB,
        .limit_bytes = UINT64_MAX,
        .pressure = n % 100 == 99 ? 0.5 : 0,
    };
}

static void wait_for_looks(unsigned times)
{
    const struct timespec pause = {0, 50000};
    for (unsigned from = atomic_load(&n_looks); atomic_load(&n_looks) - from < times;) {
        nanosleep(&pause, NULL);
    }
}

/* --- Runs --------------------------------------------------------------------------------- */

static enum forebay_status run_session(struct forebay_session *session, const struct shape *shape,
    bool governed, struct rows *rows, struct forebay_error *err)
{
    int32_t tokens[512];
    for (size_t i = 0; i < shape->prompt; i++) {
        tokens[i] = (int32_t)(1 + (37 * i + i * i) % (rows->n_vocab - 1));
    }
    enum forebay_status status = forebay_eval(session, tokens, shape->prompt, false, err);
    for (size_t i = 0; status == FOREBAY_OK && i < shape->generated; i++) {
        rows_add(rows, forebay_logits(session, 0));
        int32_t token = forebay_sample(session);
        if (governed && i % 2) {
            wait_for_looks(3);
        }
        status = forebay_eval(session, &token, 1, false, err);
    }
    return status;
}

static struct rows run(const char *path, const struct shape *shape,
    const struct forebay_model_options *options, struct forebay_stats *stats)
{
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_placement placement;
    struct forebay_error err;
    struct rows rows = {0};
    if (forebay_model_load(path, options, &model, &err) != FOREBAY_OK) {
        fail_msg("%s (%s)", err.message, err.hint);
    }
    rows.n_vocab = (size_t)forebay_model_n_vocab(model);
    forebay_model_placement(model, &placement);
    assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
    fb_memory_override(options->plain ? NULL : invented_machine);
    if (run_session(session, shape, !options->plain, &rows, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    fb_memory_override(NULL);
    forebay_stats_get(session, stats);
    forebay_session_free(session);
    forebay_model_free(model);
    return rows;
}

/* The smallest budget for weights that is not refused, to 1 KiB. */
static uint64_t least_budget(const char *path, struct forebay_model_options options)
{
    uint64_t low = 1, high = 64 * FB_MIB; /* low is too little, high is enough */
    while (high - low > 1024) {
        struct forebay_model *model = NULL;
        options.weights_mem_bytes = (low + high) / 2;
        enum forebay_status status = forebay_model_load(path, &options, &model, NULL);
        assert_true(status == FOREBAY_OK || status == FOREBAY_E_NOFIT);
        *(status == FOREBAY_OK ? &high : &low) = (low + high) / 2;
        forebay_model_free(model);
    }
    return high;
}

static void test_case(void **state)
{
    const struct governed *c = *state;
    const struct shape shape = {.batch = c->batch,
        .threads = 1,
        .prompt = 80,
        .generated = 60,
        .repack = c->repack,
        .last_row = true};
    struct forebay_model_options options = shape_options(&shape);
    const char *path = temp_path("governed.gguf");
    struct forebay_stats stats;
    uint64_t bytes = make_small_model(path, c->arch, 512);
    options.plain = true;
    struct rows want = run(path, &shape, &options, &stats);
    options.plain = false;
    options.weights_mem_bytes =
        c->percent ? bytes * (uint64_t)c->percent / 100 : least_budget(path, options);
    for (int m = 0; m < COUNT(methods); m++) {
        options.io_method = methods[m];
        struct rows got = run(path, &shape, &options, &stats);
        if (!same_rows(&want, &got)) {
            fail_msg("--io %s: not the same logits (%llu shrinks, %llu grows)", methods[m],
                (unsigned long long)stats.governor_shrinks,
                (unsigned long long)stats.governor_grows);
        }
        assert_true(stats.governor_shrinks > 3 && stats.governor_grows > 3);
        rows_free(&got);
    }
    rows_free(&want);
}

int main(void)
{
    struct CMUnitTest tests[COUNT(cases)];
    char names[COUNT(cases)][96];
    for (int i = 0; i < COUNT(cases); i++) {
        snprintf(names[i], sizeof names[i], "%s: %s", cases[i].arch, cases[i].name);
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = test_case, .initial_state = (void *)&cases[i]};
    }
    forebay_log_set_level(FOREBAY_LOG_ERROR);
    fb_watch_interval_us = 100;
    fb_device.calm_ns = 1;
    return _cmocka_run_group_tests("exact_governor", tests, COUNT(tests), NULL, temp_remove);
}
