/*
 * governed.h - sessions on an invented machine that is short of memory every other moment, so that
 * weights give memory back and regain it all the time.
 */
#ifndef FOREBAY_TESTS_GOVERNED_H
#define FOREBAY_TESTS_GOVERNED_H

#include "exact.h"

#include <stdatomic.h>
#include <time.h>

#include "backend/device_state.h"
#include "base/units.h"
#include "os/watch.h"

/* --- A machine that is short of memory now and then ---------------------------------------- */

static atomic_uint n_looks;

/* Three looks of too little (the amount varies), nine of plenty. The reserve is 256 KiB. */
static inline void invented_machine(struct fb_memory_state *out)
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

static inline void wait_for_looks(unsigned times)
{
    const struct timespec pause = {0, 50000};
    for (unsigned from = atomic_load(&n_looks); atomic_load(&n_looks) - from < times;) {
        nanosleep(&pause, NULL);
    }
}

/* --- Runs --------------------------------------------------------------------------------- */

static inline enum forebay_status run_session(struct forebay_session *session,
    const struct shape *shape, bool governed, struct rows *rows, struct forebay_error *err)
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

/* Plain llama.cpp sees the real machine. */
static inline struct rows run_governed(const char *path, const struct shape *shape,
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

/* A run with these options has the wanted logits, and memory was given back and regained. */
static inline void check_governed(const char *path, const struct shape *shape,
    const struct forebay_model_options *options, const struct rows *want,
    struct forebay_stats *stats)
{
    struct rows got = run_governed(path, shape, options, stats);
    if (!same_rows(want, &got)) {
        fail_msg("--io %s: not the same logits (%llu shrinks, %llu grows)", options->io_method,
            (unsigned long long)stats->governor_shrinks, (unsigned long long)stats->governor_grows);
    }
    assert_true(stats->governor_shrinks > 3 && stats->governor_grows > 3);
    rows_free(&got);
}

/* Call it once: the watch looks, and the governor decides, all the time. */
static inline void govern_quickly(void)
{
    fb_watch_interval_us = 100;
    fb_device.calm_ns = 1;
}

#endif
