/*
 * test_exact_threads.c - logits stay bit-identical to llama.cpp's with two threads while one or two
 * of them compute, in turn: other programs come and go on an invented machine.
 *
 * The prompts are longer than the number of cells from which on attention is divided by threads.
 */
#include "exact.h"
#include "small_synth.h"

#include <stdatomic.h>
#include <time.h>

#include "backend/binding.h"
#include "backend/device_state.h"
#include "base/units.h"
#include "engine/model.h"
#include "os/cpu_use.h"
#include "os/watch.h"

struct shared {
    const char *arch, *name;
    bool repack;
    int percent; /* of the weights */
};

static const struct shared cases[] = {
    {"qwen3moe", "half of the experts, repacked", true, 50},
    {"llama", "all resident, as stored", false, 100},
    {"gemma3", "window, half resident, repacked", true, 60},
    {"qwen3next", "recurrent layers, repacked", true, 100},
};

/* --- A machine on which others compute now and then ----------------------------------------- */

static atomic_int used_by_others; /* of two processors */
static atomic_uint n_readings;

static void invented_use(struct fb_cpu_use *out)
{
    static _Atomic uint64_t now, idle;
    uint64_t second = 1000000000;
    atomic_fetch_add(&idle, (uint64_t)(2 - atomic_load(&used_by_others)) * second);
    *out = (struct fb_cpu_use){
        .now_ns = atomic_fetch_add(&now, second) + second, .idle_ns = idle, .n_cpus = 2};
    atomic_fetch_add(&n_readings, 1);
}

/* Returns when the watch has decided for this use. */
static void others_use(int n)
{
    const struct timespec pause = {0, 50000};
    atomic_store(&used_by_others, n);
    for (unsigned from = atomic_load(&n_readings); atomic_load(&n_readings) - from < 5;) {
        nanosleep(&pause, NULL);
    }
}

/* --- Runs ----------------------------------------------------------------------------------- */

static const struct shape shape = {.batch = 64, .threads = 2, .prompt = 500, .generated = 28};

static struct rows run(const char *path, const struct forebay_model_options *options)
{
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_error err;
    struct rows rows = {0};
    int limited = 0, not_limited = 0;
    if (forebay_model_load(path, options, &model, &err) != FOREBAY_OK) {
        fail_msg("%s (%s)", err.message, err.hint);
    }
    rows.n_vocab = (size_t)forebay_model_n_vocab(model);
    assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
    int32_t tokens[500];
    for (size_t i = 0; i < shape.prompt; i++) {
        tokens[i] = (int32_t)(1 + (37 * i + i * i) % (rows.n_vocab - 1));
    }
    for (size_t done = 0, i = 0; done < shape.prompt + shape.generated; i++) {
        if (!options->plain) {
            others_use(i % 3 == 0 ? 0 : 1);
        }
        size_t n = done < shape.prompt ? shape.batch : 1;
        n = done + n > shape.prompt && n > 1 ? shape.prompt - done : n;
        int32_t next = done < shape.prompt ? 0 : forebay_sample(session);
        if (forebay_eval(session, done < shape.prompt ? tokens + done : &next, n, false, &err) !=
            FOREBAY_OK) {
            fail_msg("%s", err.message);
        }
        rows_add(&rows, forebay_logits(session, 0));
        done += n;
        if (!options->plain) {
            bool is = fb_workers_limited(model->binding->workers);
            limited += is;
            not_limited += !is;
        }
    }
    assert_true(options->plain || (limited > 10 && not_limited > 5));
    forebay_session_free(session);
    forebay_model_free(model);
    return rows;
}

static void test_case(void **state)
{
    const struct shared *c = *state;
    struct shape with = shape;
    with.repack = c->repack;
    with.last_row = true;
    struct forebay_model_options options = shape_options(&with);
    const char *path = temp_path("shared.gguf");
    uint64_t bytes = make_small_model(path, c->arch, 256);
    options.ctx = 640;
    options.plain = true;
    struct rows want = run(path, &options);
    options.plain = false;
    options.weights_mem_bytes = bytes * (uint64_t)c->percent / 100;
    struct rows got = run(path, &options);
    if (!same_rows(&want, &got)) {
        fail_msg("not the same logits");
    }
    rows_free(&want);
    rows_free(&got);
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
    fb_cpu_use_override(invented_use);
    fb_watch_interval_us = 100;
    fb_device.use_interval_ns = 0;
    fb_device.calm_ns = 1;
    return _cmocka_run_group_tests("exact_threads", tests, COUNT(tests), NULL, temp_remove);
}
