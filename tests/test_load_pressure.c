/*
 * test_load_pressure.c - memory gets short while a model is loaded: less of it is filled, and the
 * results are the same.
 *
 * The machine's memory is invented; the progress callback, called on the loading thread, makes it
 * short and waits until the watch has looked.
 */
#include "model_files.h"

#include <time.h>

#include "base/units.h"
#include "forebay.h"
#include "os/memory.h"

#define PROMPT 24

static uint64_t short_from; /* reports of progress until memory is short; UINT64_MAX: never */
static uint64_t reports;

static void enough(struct fb_memory_state *out)
{
    *out = (struct fb_memory_state){
        .total_bytes = 8 * FB_GIB, .available_bytes = 4 * FB_GIB, .limit_bytes = UINT64_MAX};
}

static void too_little(struct fb_memory_state *out)
{
    enough(out);
    out->available_bytes = 300 * FB_MIB; /* the reserve is 512 */
}

static bool report(const char *what, uint64_t done, uint64_t total, void *user)
{
    (void)done;
    (void)total;
    (void)user;
    bool ours = strncmp(what, "reading ", 8) == 0 || strncmp(what, "allocating ", 11) == 0;
    if (ours && ++reports == short_from) {
        fb_memory_override(too_little);
        nanosleep(&(struct timespec){0, 200000000}, NULL); /* ten looks */
    }
    return true;
}

/* Loads and evaluates. `logits` is [n_vocab]. Returns how often memory was given back. */
static uint64_t run(uint64_t weights_bytes, float *logits, int n_vocab)
{
    struct forebay_model_options options;
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_stats stats;
    struct forebay_error err = {0};
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) {
        prompt[i] = 5 + 7 * i;
    }
    forebay_model_options_init(&options);
    options.ctx = 64;
    options.batch = 32;
    options.threads = 1;
    options.weights_mem_bytes = weights_bytes;
    options.progress = report;
    reports = 0;
    fb_memory_override(enough);
    if (forebay_model_load(OWN_MODELS_DIR "/fable-moe.gguf", &options, &model, &err) !=
        FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(forebay_model_n_vocab(model), n_vocab);
    assert_int_equal(forebay_session_new(model, &session, &err), FOREBAY_OK);
    assert_int_equal(forebay_eval(session, prompt, PROMPT, false, &err), FOREBAY_OK);
    memcpy(logits, forebay_logits(session, 0), sizeof *logits * (size_t)n_vocab);
    forebay_stats_get(session, &stats);
    forebay_session_free(session);
    forebay_model_free(model);
    fb_memory_override(NULL);
    return stats.governor_shrinks;
}

static void test_memory_gets_short_at_every_moment(void **state)
{
    enum { N_VOCAB = 1536 };
    static const uint64_t budgets[] = {0, 2 * FB_MIB};
    static float want[N_VOCAB], got[N_VOCAB];
    (void)state;
    for (int i = 0; i < 2; i++) {
        short_from = UINT64_MAX;
        assert_int_equal(run(budgets[i], want, N_VOCAB), 0);
        uint64_t all = reports, step = all / 4 + 1;
        assert_true(all > 2);
        for (short_from = 1; short_from < all; short_from += step) {
            assert_in_range(run(budgets[i], got, N_VOCAB), 1, 1000);
            assert_memory_equal(got, want, sizeof want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_gets_short_at_every_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
