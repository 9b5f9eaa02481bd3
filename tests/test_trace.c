/*
 * test_trace.c - traces recorded from real runs are the same with every budget, and a simulation of
 * one has exactly the hits and the bytes of the run.
 */
#include "model_files.h"

#include "base/units.h"
#include "model/trace.h"
#include "sim/sim.h"
#include "forebay.h"
#include "synth/synth.h"

#define PROMPT    23
#define BATCH     9
#define GENERATED 40

static const char *make_model(const char *arch, const char *type)
{
    struct fb_synth_shape shape;
    struct forebay_error err;
    const char *path = temp_path("model.gguf");
    fb_synth_shape_init(&shape);
    shape.arch = arch;
    shape.type = type;
    shape.layers = 3;
    shape.embd = 256;
    shape.heads = 4;
    shape.ff = 256;
    shape.experts = arch ? 16 : 0;
    shape.experts_used = arch ? 3 : 0;
    shape.vocab = 300;
    shape.arch = arch ? arch : "llama";
    if (fb_synth_random(&shape, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    return path;
}

struct run {
    struct forebay_stats stats;
    struct forebay_placement placement;
    int32_t tokens[GENERATED];
};

/* Loads the model and starts a trace; *start is that call's status. */
static struct forebay_session *open_session(const char *model_path, uint64_t mem_bytes,
    const char *trace, struct forebay_model **model, enum forebay_status *start,
    struct forebay_error *err)
{
    struct forebay_model_options options;
    struct forebay_session *session;
    forebay_model_options_init(&options);
    options.ctx = 128;
    options.batch = BATCH;
    options.threads = 1;
    options.repack = false;
    options.weights_mem_bytes = mem_bytes;
    options.lookahead = 0; /* the simulator has no lookahead */
    if (forebay_model_load(model_path, &options, model, err) != FOREBAY_OK ||
        forebay_session_new(*model, &session, err) != FOREBAY_OK) {
        fail_msg("%s", err->message);
    }
    *start = forebay_trace_start(session, trace, err);
    return session;
}

static struct run record(const char *model_path, uint64_t mem_bytes, const char *trace)
{
    struct run run;
    struct forebay_error err;
    struct forebay_model *model;
    enum forebay_status status;
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) {
        prompt[i] = 1 + (37 * i + i * i) % 250;
    }
    struct forebay_session *session =
        open_session(model_path, mem_bytes, trace, &model, &status, &err);
    assert_int_equal(status, FOREBAY_OK);
    assert_int_equal(forebay_trace_start(session, trace, NULL), FOREBAY_E_USAGE); /* not twice */
    assert_int_equal(forebay_eval(session, prompt, PROMPT, false, &err), FOREBAY_OK);
    for (int i = 0; i < GENERATED; i++) {
        run.tokens[i] = forebay_sample(session);
        assert_int_equal(forebay_eval(session, &run.tokens[i], 1, false, &err), FOREBAY_OK);
    }
    assert_int_equal(forebay_trace_stop(session, &err), FOREBAY_OK);
    assert_int_equal(forebay_trace_stop(session, &err), FOREBAY_OK);
    forebay_stats_get(session, &run.stats);
    forebay_model_placement(model, &run.placement);
    forebay_session_free(session);
    forebay_model_free(model);
    return run;
}

static void check_simulation(
    const char *model, const char *trace, uint64_t mem_bytes, const struct run *run)
{
    struct fb_sim_options options;
    struct fb_sim_report r;
    struct forebay_error err;
    fb_sim_options_init(&options);
    options.mem_bytes = mem_bytes;
    options.warm_up = 0;
    options.prefill = true;
    if (fb_sim_run(model, trace, &options, &r, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(r.n_slots, run->placement.n_slots);
    assert_int_equal(r.prefill.tokens, PROMPT);
    assert_int_equal(r.decode.tokens, GENERATED);
    print_message("# %d slots: %llu of %llu hit\n", r.n_slots,
        (unsigned long long)run->stats.expert_hits, (unsigned long long)run->stats.expert_requests);
    assert_int_equal(r.prefill.requests + r.decode.requests, run->stats.expert_requests);
    if (run->placement.n_slots == run->placement.n_experts && !run->placement.streamed_bytes) {
        /* The run has read everything before its first token; a simulation starts with nothing. */
        assert_int_equal(run->stats.expert_hits, run->stats.expert_requests);
        assert_int_equal(run->stats.demand_bytes, 0);
        fb_sim_report_release(&r);
        return;
    }
    assert_int_equal(r.prefill.hits + r.decode.hits, run->stats.expert_hits);
    if (run->placement.streamed_bytes == 0) {
        assert_int_equal(r.prefill.expert_bytes + r.decode.expert_bytes,
            run->stats.demand_bytes + run->stats.prefetch_used_bytes);
    }
    fb_sim_report_release(&r);
}

static void simulations_equal_the_run(void **state)
{
    (void)state;
    static const char *const archs[] = {"qwen3moe", "gpt-oss", "olmoe"};
    static const uint64_t percents[] = {100, 60, 45, 30, 0};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        const char *model = make_model(archs[a], NULL);
        char *first = NULL;
        size_t first_size = 0;
        struct stat s;
        assert_int_equal(stat(model, &s), 0);
        for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
            uint64_t mem = (uint64_t)s.st_size * percents[i] / 100 + 850 * FB_KIB;
            const char *trace = temp_path("run.jsonl");
            struct run run = record(model, mem, trace);
            size_t size;
            char *text = read_whole(trace, &size);
            check_simulation(model, trace, mem, &run);
            if (!first) { /* routing does not depend on the budget */
                first = text;
                first_size = size;
                continue;
            }
            assert_int_equal(size, first_size);
            assert_memory_equal(text, first, size);
            free(text);
        }
        free(first);
    }
}

/* --- The file -------------------------------------------------------------------------------- */

static void a_trace_has_every_route(void **state)
{
    (void)state;
    const char *model = make_model("qwen3moe", NULL), *path = temp_path("run.jsonl");
    struct fb_trace t;
    record(model, 1200 * FB_KIB, path);
    assert_int_equal(
        fb_trace_read(path, &(struct fb_trace_part){.prefill = true}, &t, NULL), FOREBAY_OK);
    assert_int_equal(t.n_layer, 3);
    assert_int_equal(t.n_expert, 16);
    assert_int_equal(t.top_k, 3);
    assert_int_equal(t.n_tokens, PROMPT + GENERATED);
    assert_int_equal(t.n_prefill, PROMPT);
    for (int i = 0; i < t.n_tokens; i++) {
        bool prefill = i < PROMPT;
        int batches = (PROMPT + BATCH - 1) / BATCH;
        assert_int_equal(t.prefill[i], prefill);
        assert_int_equal(t.batch[i], prefill ? i / BATCH : batches + i - PROMPT);
        for (int l = 0; l < t.n_layer; l++) {
            /* The last layer computes only rows whose logits are wanted: the prompt's last. */
            assert_int_equal(
                fb_trace_route(&t, i, l) != NULL, !prefill || l < 2 || i == PROMPT - 1);
        }
    }
    fb_trace_release(&t);

    /* Without prefill tokens, and replayed as a model of its own. */
    assert_int_equal(fb_trace_read(path, &(struct fb_trace_part){0}, &t, NULL), FOREBAY_OK);
    assert_int_equal(t.n_tokens, GENERATED);
    assert_int_equal(t.n_prefill, 0);
    fb_trace_release(&t);
    struct fb_synth_replay replay;
    fb_synth_replay_init(&replay);
    replay.embd = 256;
    assert_int_equal(
        fb_synth_replay(&replay, path, temp_path("replay.gguf"), NULL, NULL), FOREBAY_OK);
}

/* --- Nothing to record ----------------------------------------------------------------------- */

static void no_trace_without_routes(void **state)
{
    (void)state;
    struct forebay_error err;
    struct forebay_model *model;
    enum forebay_status status;
    const char *trace = temp_path("none.jsonl");
    const char *dense = make_model(NULL, NULL);
    struct forebay_session *session = open_session(dense, 1 * FB_MIB, trace, &model, &status, &err);
    assert_int_equal(status, FOREBAY_E_UNSUPPORTED);
    forebay_session_free(session);
    forebay_model_free(model);

    const char *moe = make_model("qwen3moe", NULL);
    assert_int_not_equal(access(trace, F_OK), 0);
    session = open_session(moe, 0, trace, &model, &status, &err); /* fits, but has routes */
    assert_int_equal(status, FOREBAY_OK);
    forebay_session_free(session);
    forebay_model_free(model);

    session = open_session(moe, 1200 * FB_KIB, temp_dir(), &model, &status, &err);
    assert_int_equal(status, FOREBAY_E_IO);
    if (forebay_trace_start(session, "/dev/full", &err) == FOREBAY_OK) {
        int32_t token = 1;
        assert_int_equal(forebay_eval(session, &token, 1, false, &err), FOREBAY_OK);
        assert_int_equal(forebay_trace_stop(session, &err), FOREBAY_E_IO);
    }
    forebay_session_free(session);
    forebay_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simulations_equal_the_run),
        cmocka_unit_test(a_trace_has_every_route),
        cmocka_unit_test(no_trace_without_routes),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, temp_remove);
}
