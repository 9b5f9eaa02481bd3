/* test_synth_replay.c - a replay model repeats its trace, routes and tokens, under plain
 * llama.cpp. */
#include "random.h"
#include "synth_llama.h"

#include "model/catalog.h"
#include "model/trace.h"
#include "synth/synth.h"

/* --- Watching the routes ------------------------------------------------------------------ */

struct watch {
    const struct fb_trace *trace;
    int token; /* being evaluated */
    long routes;
};

/* llama.cpp asks about every node, and passes those for which the answer was true. */
static bool on_node(struct ggml_tensor *t, bool ask, void *user)
{
    struct watch *w = user;
    int layer;
    if (sscanf(t->name, "ffn_moe_topk-%d", &layer) != 1) {
        return false;
    }
    if (ask) {
        return true;
    }
    const uint16_t *want = fb_trace_route(w->trace, w->token, layer);
    assert_int_equal(t->ne[0], w->trace->top_k);
    assert_int_equal(t->ne[1], 1);
    for (int k = 0; k < w->trace->top_k; k++) {
        int32_t got;
        bool found = false;
        ggml_backend_tensor_get(t, &got, (size_t)k * t->nb[0], sizeof got);
        for (int j = 0; j < w->trace->top_k; j++) {
            found = found || want[j] == got;
        }
        if (!found) {
            fail_msg("token %d, layer %d: expert %d is not in the trace", w->token, layer, got);
        }
    }
    w->routes++;
    return true;
}

/* From the text "w0 ", decodes the whole trace and the beginning of its repetition. */
static void follow(const char *path, const struct fb_trace *trace)
{
    struct watch w = {.trace = trace};
    struct runner r = runner_open(path, on_node, &w);
    llama_token token;
    assert_int_equal(llama_tokenize(r.vocab, "w0 ", 3, &token, 1, true, true), 1);
    assert_int_equal(token, 0);
    int steps = trace->n_tokens + 3;
    for (int i = 0; i < steps; i++) {
        w.token = token;
        token = largest(runner_eval(&r, &token, 1), r.n_vocab);
        assert_int_equal(token, (i + 1) % trace->n_tokens);
        char want[16], got[16];
        int n = snprintf(want, sizeof want, "w%d ", token);
        assert_int_equal(llama_token_to_piece(r.vocab, token, got, sizeof got, 0, true), n);
        assert_memory_equal(got, want, (size_t)n);
    }
    assert_int_equal(w.routes, (long)steps * trace->n_layer);
    runner_close(&r);
}

static void make_and_follow(const struct fb_synth_replay *replay, const char *trace_path)
{
    struct forebay_error err;
    struct fb_trace trace;
    struct fb_synth_report report;
    if (fb_synth_replay(replay, trace_path, temp_path("replay.gguf"), &report, &err) !=
        FOREBAY_OK) {
        fail_msg("%s: %s", trace_path, err.message);
    }
    assert_int_equal(
        fb_trace_read(trace_path,
            &(struct fb_trace_part){.layers = replay->layers, .tokens = replay->tokens}, &trace,
            NULL),
        FOREBAY_OK);
    follow(report.path, &trace);
    fb_trace_release(&trace);
}

/* --- Traces ------------------------------------------------------------------------------- */

static const char *write_trace(int layers, int experts, int top_k, int tokens)
{
    const char *path = temp_path("trace.jsonl");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"n_layer\": %d, \"n_expert\": %d, \"top_k\": %d}\n", layers, experts, top_k);
    fprintf(f, "{\"phase\": \"prefill\", \"layers\": []}\n\n");
    for (int t = 0; t < tokens; t++) {
        fprintf(f, "{\"tok\": %d, \"phase\": \"decode\", \"layers\": [", t);
        for (int l = 0; l < layers; l++) {
            int first = random_below(experts), step = 1 + random_below(experts / top_k);
            for (int k = 0; k < top_k; k++) {
                fprintf(f, "%s%d", k ? "," : l ? ",[" : "[", (first + k * step) % experts);
            }
            fprintf(f, "]");
        }
        fprintf(f, "]}\n");
    }
    assert_int_equal(fclose(f), 0);
    return path;
}

static void random_traces_are_repeated(void **state)
{
    (void)state;
    static const struct {
        int layers, experts, top_k, tokens, embd;
        const char *type;
    } cases[] = {{3, 8, 2, 40, 256, "Q4_K"}, {5, 16, 5, 100, 256, "Q4_0"},
        {2, 64, 8, 150, 160, "Q8_0"}, {40, 4, 1, 10, 256, "MXFP4"}, {1, 2, 2, 1, 256, "IQ2_XXS"},
        {3, 8, 3, 256, 256, "F32"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_synth_replay replay;
        fb_synth_replay_init(&replay);
        replay.type = cases[i].type;
        replay.embd = cases[i].embd;
        replay.expert_bytes = 1;
        make_and_follow(&replay,
            write_trace(cases[i].layers, cases[i].experts, cases[i].top_k, cases[i].tokens));
    }
}

static void shared_traces_are_repeated(void **state)
{
    (void)state;
    static const char *const names[] = {"olmoe-1b-7b", "qwen3-30b-a3b-k6", "gpt-oss-120b-k2"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "traces/%s.jsonl", names[i]);
        struct fb_synth_replay replay;
        fb_synth_replay_init(&replay);
        replay.type = "Q4_0";
        replay.embd = 512;
        replay.expert_bytes = 1;
        make_and_follow(&replay, shared_file(name));
    }
}

static void the_first_part_of_a_trace_is_enough(void **state)
{
    (void)state;
    struct fb_synth_replay replay;
    fb_synth_replay_init(&replay);
    replay.embd = 256;
    replay.layers = 2;
    replay.tokens = 17;
    replay.output.split_max_bytes = 1 << 20;
    make_and_follow(&replay, write_trace(6, 8, 2, 40));
}

static void expert_sizes_are_met(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *type;
    } cases[] = {{900000, "Q4_K"}, {2600000, "Q4_K"}, {8000000, "Q4_K"}, {2600000, "Q8_0"},
        {900000, "MXFP4"}, {8000000, "F16"}};
    const char *trace = write_trace(1, 2, 1, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_synth_replay replay;
        struct fb_synth_report report;
        fb_synth_replay_init(&replay);
        replay.type = cases[i].type;
        replay.expert_bytes = cases[i].bytes;
        assert_int_equal(
            fb_synth_replay(&replay, trace, temp_path("replay.gguf"), &report, NULL), FOREBAY_OK);
        assert_true(report.expert_bytes > cases[i].bytes / 100 * 93);
        assert_true(report.expert_bytes < cases[i].bytes / 100 * 107);
        struct fb_catalog *c;
        assert_int_equal(fb_catalog_open(report.path, false, &c, NULL), FOREBAY_OK);
        uint64_t sum = 0;
        for (int t = 0; t < c->n_tensors; t++) {
            sum += c->tensors[t].expert_bytes;
        }
        assert_true(sum == report.expert_bytes);
        fb_catalog_free(c);
    }
}

/* Damage to an expert that a token uses changes its logits; damage to another expert does not. */
static void bytes_of_used_experts_count(void **state)
{
    (void)state;
    struct fb_synth_replay replay;
    struct fb_trace trace;
    fb_synth_replay_init(&replay);
    replay.embd = 256;
    const char *trace_path = write_trace(3, 8, 2, 40), *path = temp_path("replay.gguf");
    assert_int_equal(fb_synth_replay(&replay, trace_path, path, NULL, NULL), FOREBAY_OK);
    assert_int_equal(
        fb_trace_read(trace_path, &(struct fb_trace_part){0}, &trace, NULL), FOREBAY_OK);
    int used[2] = {fb_trace_route(&trace, 0, 1)[0], fb_trace_route(&trace, 0, 1)[1]};
    fb_trace_release(&trace);
    struct fb_catalog *c;
    assert_int_equal(fb_catalog_open(path, false, &c, NULL), FOREBAY_OK);
    const struct fb_tensor *t = &c->tensors[fb_catalog_find(c, "blk.1.ffn_down_exps.weight")];
    float *reference = NULL;
    for (int expert = -1; expert < 8; expert++) {
        uint64_t at = t->offset + (uint64_t)(expert < 0 ? 0 : expert) * t->expert_bytes;
        if (expert >= 0) {
            damage(path, at + 5 * 144 + 16, 128); /* a block's 256 weights */
        }
        llama_token token = 0;
        struct runner r = runner_open(path, NULL, NULL);
        const float *logits = runner_eval(&r, &token, 1);
        size_t bytes = (size_t)r.n_vocab * sizeof *logits;
        if (expert < 0) {
            reference = malloc(bytes);
            memcpy(reference, logits, bytes);
        } else {
            bool same = memcmp(reference, logits, bytes) == 0;
            assert_int_equal(same, expert != used[0] && expert != used[1]);
            damage(path, at + 5 * 144 + 16, 128);
        }
        runner_close(&r);
    }
    free(reference);
    fb_catalog_free(c);
}

/* --- Broken traces ------------------------------------------------------------------------ */

#define HEADER "{\"n_layer\":2,\"n_expert\":4,\"top_k\":2}\n"
#define TOKEN  "{\"phase\":\"decode\",\"layers\":[[0,1],[2,3]]}\n"

static void broken_traces_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"", "is empty"},
        {HEADER, "no decode token"},
        {HEADER "{\"phase\":\"prefill\"}\n", "no decode token"},
        {"hello\n", "line 1: not JSON"},
        {HEADER TOKEN "{\"phase\":\"decode\",", "line 3: not JSON"},
        {"[1]\n", "line 1: not a JSON object"},
        {TOKEN, "line 1: no usable \"n_layer\""},
        {"{\"n_layer\":2000000000,\"n_expert\":4,\"top_k\":2}\n", "n_layer"},
        {"{\"n_layer\":2,\"n_expert\":0,\"top_k\":2}\n", "n_expert"},
        {"{\"n_layer\":2,\"n_expert\":4,\"top_k\":5}\n", "top_k"},
        {HEADER "{\"layers\":[[0,1],[2,3]]}\n", "line 2: \"phase\""},
        {HEADER "{\"phase\":\"decode\"}\n", "line 2: \"layers\""},
        {HEADER "{\"phase\":\"decode\",\"layers\":[[0,1]]}\n", "line 2: \"layers\""},
        {HEADER "{\"phase\":\"decode\",\"layers\":[[0,1],[2]]}\n", "line 2: a layer"},
        {HEADER TOKEN "{\"phase\":\"decode\",\"layers\":[[0,1],[2,4]]}\n", "line 3: an expert"},
        {HEADER "{\"phase\":\"decode\",\"layers\":[[0,-1],[2,3]]}\n", "line 2: an expert"},
        {HEADER "{\"phase\":\"decode\",\"layers\":[[0,1.5],[2,3]]}\n", "line 2: an expert"},
        {HEADER "{\"phase\":\"decode\",\"layers\":[[0,1],[3,3]]}\n", "appears twice"},
        {HEADER "{\"phase\":\"decode\",\"layers\":[\"ab\",[2,3]]}\n", "line 2: a layer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = temp_path("broken.jsonl"), *out = temp_path("broken.gguf");
        write_file(path, cases[i].text, strlen(cases[i].text));
        struct fb_synth_replay replay;
        struct forebay_error err = {0};
        fb_synth_replay_init(&replay);
        assert_int_equal(fb_synth_replay(&replay, path, out, NULL, &err), FOREBAY_E_FORMAT);
        if (!strstr(err.message, cases[i].complaint) || !strstr(err.message, path)) {
            fail_msg("case %zu: %s", i, err.message);
        }
        assert_int_not_equal(access(out, F_OK), 0);
    }
}

static void impossible_replays_are_refused(void **state)
{
    (void)state;
    struct fb_synth_replay narrow, layers, type, ff;
    fb_synth_replay_init(&narrow);
    layers = type = ff = narrow;
    narrow.embd = 64;
    layers.layers = 3;
    type.type = "Q4";
    ff.ff = 1;
    const struct fb_synth_replay *all[] = {&narrow, &layers, &type, &ff};
    const char *trace = write_trace(2, 8, 2, 100);
    for (int i = 0; i < 4; i++) {
        struct forebay_error err = {0};
        assert_int_equal(
            fb_synth_replay(all[i], trace, temp_path("r.gguf"), NULL, &err), FOREBAY_E_USAGE);
        assert_true(err.message[0] != 0);
    }
    struct forebay_error err = {0};
    const char *missing = temp_path("missing.jsonl"), *out = temp_path("r.gguf");
    assert_int_equal(fb_synth_replay(&type, missing, out, NULL, &err), FOREBAY_E_IO);
    assert_int_equal(fb_synth_replay(&type, temp_dir(), out, NULL, &err), FOREBAY_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_traces_are_repeated),
        cmocka_unit_test(shared_traces_are_repeated),
        cmocka_unit_test(the_first_part_of_a_trace_is_enough),
        cmocka_unit_test(expert_sizes_are_met),
        cmocka_unit_test(bytes_of_used_experts_count),
        cmocka_unit_test(broken_traces_are_refused),
        cmocka_unit_test(impossible_replays_are_refused),
    };
    return cmocka_run_group_tests_name("synth replay", tests, NULL, temp_remove);
}
