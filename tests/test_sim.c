/*
 * test_sim.c - simulations against figures found independently, against a naive simulator written
 * here, and against invariants of any trace.
 */
#include "model_files.h"
#include "optimum.h"

#include "base/error.h"
#include "base/random.h"
#include "base/units.h"
#include "cache/tier.h"
#include "io/io.h"
#include "model/trace.h"
#include "os/memory.h"
#include "sim/belady.h"
#include "sim/sim.h"
#include "synth/synth.h"

static uint64_t random_state = 1;

static int rnd(int n)
{
    return (int)(fb_random_next(&random_state) % (uint64_t)n);
}

static void simulate(const char *model, const char *trace, const struct fb_sim_options *options,
    struct fb_sim_report *out)
{
    struct forebay_error err;
    if (fb_sim_run(model, trace, options, out, &err)) {
        fail_msg("%s with %s: %s", model, trace, err.message);
    }
}

static double rate(uint64_t hits, const struct fb_sim_figures *f)
{
    return 100 * (double)hits / (double)f->requests;
}

/* --- Figures of the README beside the shared traces ------------------------------------------- */

struct expected {
    const char *file, *shape;
    int warm_up;
    struct {
        int slots;
        double lru, lfu, belady;
    } at[2];
};

static struct expected all_expected[] = {
    {"traces/olmoe-1b-7b.jsonl", "16x64,8,1M", 64,
        {{16, 61.1, 60.5, 73.6}, {32, 81.0, 81.3, 91.4}}},
    {"traces/qwen3-30b-a3b-k6.jsonl", "48x128,8,2.6M", 32,
        {{16, 61.6, 65.8, 76.3}, {32, 83.2, 84.8, 91.7}}},
    {"traces/gpt-oss-120b-k2.jsonl", "36x128,4,12M", 16,
        {{8, 55.1, 53.5, 69.6}, {16, 69.7, 70.5, 80.9}}},
};

static void expect(const char *what, int slots, double got, double expected)
{
    print_message("# %-6s %2d slots: %.2f %%, expected %.1f\n", what, slots, got, expected);
    if (!(got > expected - 0.06 && got < expected + 0.06)) {
        fail_msg("%s with %d slots: %.2f %%, expected %.1f", what, slots, got, expected);
    }
}

static void known_hit_rates(void **state)
{
    const struct expected *x = *state;
    const char *trace = shared_file(x->file);
    for (int i = 0; i < 2; i++) {
        for (int lfu = 0; lfu < 2; lfu++) {
            struct fb_sim_options options;
            struct fb_sim_report r;
            fb_sim_options_init(&options);
            options.slots = x->at[i].slots;
            options.policy = lfu ? "lfu" : "lru";
            simulate(x->shape, trace, &options, &r);
            assert_int_equal(r.warm_up, x->warm_up); /* by default */
            expect(options.policy, options.slots, rate(r.decode.hits, &r.decode),
                lfu ? x->at[i].lfu : x->at[i].lru);
            expect("Belady", options.slots, rate(r.optimum_hits, &r.decode), x->at[i].belady);
            fb_sim_report_release(&r);
        }
    }
}

/* The share of the gap between LRU's misses and the optimum's that the policy closes, in
 * percent. */
static double way(const struct expected *x, const char *trace, int slots)
{
    struct fb_sim_options options;
    struct fb_sim_report lru, own;
    fb_sim_options_init(&options);
    options.slots = slots;
    simulate(x->shape, trace, &options, &own);
    options.policy = "lru";
    simulate(x->shape, trace, &options, &lru);
    assert_string_equal(own.policy, "echo"); /* by default */
    assert_true(own.decode.requests == lru.decode.requests);
    double saved = (double)own.decode.hits - (double)lru.decode.hits;
    double possible = (double)lru.optimum_hits - (double)lru.decode.hits;
    fb_sim_report_release(&lru);
    fb_sim_report_release(&own);
    return 100 * saved / possible;
}

/* bench/eviction.sh measures more budgets. */
static void the_policy_closes_a_third_of_the_gap_to_the_optimum(void **state)
{
    (void)state;
    double sum = 0;
    for (int t = 0; t < 3; t++) {
        const char *trace = shared_file(all_expected[t].file);
        for (int i = 0; i < 2; i++) {
            double here = way(&all_expected[t], trace, all_expected[t].at[i].slots);
            print_message("# %s, %d slots: %.1f %%\n", all_expected[t].shape,
                all_expected[t].at[i].slots, here);
            sum += here;
        }
    }
    assert_true(sum / 6 > 100.0 / 3 - 5);
}

/* --- Generated traces ------------------------------------------------------------------------- */

struct made {
    char path[PATH_MAX];
    char shape[64];
    int layers, experts, top_k, tokens;
    uint64_t expert_bytes;
    int *routes; /* [token][layer][top_k], ascending */
};

static int *route(const struct made *m, int token, int layer)
{
    return m->routes + ((size_t)token * (size_t)m->layers + (size_t)layer) * (size_t)m->top_k;
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* A token keeps about half of the experts of the one before. */
static void choose_route(struct made *m, int token, int layer)
{
    int *out = route(m, token, layer);
    for (int k = 0; k < m->top_k; k++) {
        bool again;
        do {
            out[k] =
                token > 0 && rnd(2) ? route(m, token - 1, layer)[rnd(m->top_k)] : rnd(m->experts);
            again = false;
            for (int j = 0; j < k; j++) {
                again = again || out[j] == out[k];
            }
        } while (again);
    }
    qsort(out, (size_t)m->top_k, sizeof *out, by_number);
}

/* Writes the trace; its first tokens are one batch of a prompt. */
static void write_trace(const struct made *m, int prompt)
{
    FILE *f = fopen(m->path, "w");
    assert_non_null(f);
    fb_trace_write_header(f, "made", m->layers, m->experts, m->top_k);
    const int32_t **list = fb_xcalloc((size_t)m->layers, sizeof *list);
    for (int t = 0; t < m->tokens; t++) {
        for (int l = 0; l < m->layers; l++) {
            list[l] = route(m, t, l);
        }
        fb_trace_write_token(
            f, t, t < prompt, t < prompt ? 0 : (uint64_t)t, list, m->layers, m->top_k);
    }
    free(list);
    assert_int_equal(fclose(f), 0);
}

static struct made make_trace(int layers, int experts, int top_k, int tokens, uint64_t bytes)
{
    struct made m = {.layers = layers,
        .experts = experts,
        .top_k = top_k,
        .tokens = tokens,
        .expert_bytes = bytes};
    size_t n = (size_t)tokens * (size_t)layers * (size_t)top_k;
    m.routes = fb_xcalloc(n, sizeof *m.routes);
    snprintf(m.path, sizeof m.path, "%s", temp_path("made.jsonl"));
    snprintf(m.shape, sizeof m.shape, "%dx%d,%d,%llu", layers, experts, top_k,
        (unsigned long long)bytes);
    for (int t = 0; t < tokens; t++) {
        for (int l = 0; l < layers; l++) {
            choose_route(&m, t, l);
        }
    }
    write_trace(&m, 0);
    return m;
}

static void invariants_of_any_trace(void **state)
{
    (void)state;
    static const int cases[][4] = {{1, 4, 1, 50}, {3, 16, 3, 60}, {5, 24, 4, 100}, {2, 8, 8, 9}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m = make_trace(cases[i][0], cases[i][1], cases[i][2], cases[i][3], 12345);
        uint64_t optimum = 0;
        for (int slots = m.top_k; slots <= m.experts; slots++) {
            for (int lfu = 0; lfu < 2; lfu++) {
                struct fb_sim_options options;
                struct fb_sim_report r;
                fb_sim_options_init(&options);
                options.slots = slots;
                options.policy = lfu ? "lfu" : "lru";
                options.warm_up = 0;
                simulate(m.shape, m.path, &options, &r);
                uint64_t requests = (uint64_t)m.tokens * (uint64_t)m.layers * (uint64_t)m.top_k;
                assert_true(r.decode.requests == requests);
                assert_true(r.decode.hits <= r.optimum_hits);
                assert_true(r.optimum_hits >= optimum);
                optimum = r.optimum_hits;
                assert_true(r.decode.expert_bytes == (requests - r.decode.hits) * m.expert_bytes);
                assert_true(r.optimum_bytes == (requests - r.optimum_hits) * m.expert_bytes);
                assert_true(r.decode.tokens == (uint64_t)m.tokens && r.decode.dense_bytes == 0);
                uint64_t hits = 0;
                for (int l = 0; l < r.n_layers; l++) {
                    hits += r.layers[l].hits;
                }
                assert_true(hits == r.decode.hits);
                fb_sim_report_release(&r);
            }
        }
        free(m.routes);
    }
}

/* --- A naive simulator ------------------------------------------------------------------------ */

/* LRU by time stamps: how many of its experts each token misses in each layer. */
static int *naive_misses(const struct made *m, int slots)
{
    size_t n = (size_t)m->layers * (size_t)m->experts;
    long *stamp = fb_xcalloc(n, sizeof *stamp); /* 0: not in memory */
    int *misses = fb_xcalloc((size_t)m->tokens * (size_t)m->layers, sizeof *misses);
    long now = 0;
    for (int i = 0; i < m->tokens * m->layers; i++) {
        int t = i / m->layers, l = i % m->layers;
        long *of = stamp + (size_t)l * (size_t)m->experts;
        int resident = 0;
        for (int k = 0; k < m->top_k; k++) {
            int e = route(m, t, l)[k];
            misses[i] += of[e] == 0;
            of[e] = ++now;
        }
        for (int e = 0; e < m->experts; e++) {
            resident += of[e] != 0;
        }
        for (; resident > slots; resident--) {
            int oldest = -1;
            for (int e = 0; e < m->experts; e++) {
                oldest = of[e] && (oldest < 0 || of[e] < of[oldest]) ? e : oldest;
            }
            of[oldest] = 0;
        }
    }
    free(stamp);
    return misses;
}

/* For experts of whole blocks, in one part. A layer's reads begin when its experts are known, or
 * are prefetched, at most one layer before. Experts that are present when the layer begins are
 * computed while the others are read. */
static void naive(const struct made *m, int slots, const struct fb_sim_options *o, double *seconds,
    double *stall_s, uint64_t *hits)
{
    int *misses = naive_misses(m, slots);
    double half = o->compute_s / m->layers / 2,
           read = (double)m->expert_bytes / o->disk_bytes_per_s;
    double now = 0, disk = 0, begin[2] = {0}; /* of the reads of this layer and the next */
    *stall_s = 0;
    *hits = 0;
    for (int i = 0; i < m->tokens * m->layers; i++) {
        int prefetched = o->lookahead && i % m->layers != 0;
        int prefetches = o->lookahead && (i + 1) % m->layers != 0;
        now += half;
        for (int l = i + prefetched; l <= i + prefetches; l++) {
            begin[l % 2] = disk > now ? disk : now;
            disk = begin[l % 2] + misses[l] * read;
        }
        int absent = 0;
        for (int k = 1; k <= misses[i]; k++) {
            absent += begin[i % 2] + k * read + o->latency_s > now;
        }
        now += half * (m->top_k - absent) / m->top_k;
        double due = begin[i % 2] + misses[i] * read + o->latency_s;
        if (absent && due > now) {
            *stall_s += due - now;
            now = due;
        }
        now += half * absent / m->top_k;
        *hits += (uint64_t)(m->top_k - misses[i]);
    }
    *seconds = now;
    free(misses);
}

static void virtual_time_follows_the_formula(void **state)
{
    (void)state;
    static const int cases[][4] = {{1, 4, 1, 50}, {3, 16, 3, 60}, {5, 24, 4, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m = make_trace(cases[i][0], cases[i][1], cases[i][2], cases[i][3],
            (uint64_t)(1 + rnd(256)) * 4096); /* no more than is read ahead at a time */
        for (int slots = m.top_k; slots <= m.experts; slots += 3) {
            struct fb_sim_options options;
            struct fb_sim_report r;
            double seconds, stall_s;
            uint64_t hits;
            fb_sim_options_init(&options);
            options.policy = "lru";
            options.slots = slots;
            options.warm_up = 0;
            options.disk_bytes_per_s = 1e7 * (1 + rnd(50));
            options.latency_s = 1e-6 * rnd(300);
            options.compute_s = 1e-3 * rnd(20);
            options.lookahead = (slots - m.top_k) / 3 % 2;
            simulate(m.shape, m.path, &options, &r);
            naive(&m, slots, &options, &seconds, &stall_s, &hits);
            assert_true(r.decode.hits == hits);
            double error = r.decode.seconds - seconds;
            if (error * error > 1e-10 * seconds * seconds) {
                fail_msg("%.9f s, expected %.9f", r.decode.seconds, seconds);
            }
            error = r.decode.stall_s - stall_s;
            assert_true(error * error <= 1e-10 * seconds * seconds);
            fb_sim_report_release(&r);
        }
        free(m.routes);
    }
}

/* --- The optimum, against exhaustive search --------------------------------------------------- */

static void the_optimum_is_optimal(void **state)
{
    (void)state;
    int ids[TINY_STEPS * TINY_NEED];
    size_t first[TINY_STEPS + 1];
    bool hit[TINY_STEPS * TINY_NEED];
    for (size_t s = 0; s <= TINY_STEPS; s++) {
        first[s] = s * TINY_NEED;
    }
    for (int round = 0; round < 60; round++) {
        for (int s = 0; s < TINY_STEPS; s++) {
            ids[2 * s] = rnd(TINY_IDS);
            ids[2 * s + 1] = (ids[2 * s] + 1 + rnd(TINY_IDS - 1)) % TINY_IDS;
        }
        for (int slots = TINY_NEED; slots < TINY_IDS; slots++) {
            int hits = 0;
            fb_belady(&(struct fb_belady_steps){TINY_STEPS, first, ids, TINY_IDS}, slots, hit);
            for (int i = 0; i < TINY_STEPS * TINY_NEED; i++) {
                hits += hit[i];
            }
            assert_int_equal(hits, most_hits(ids, slots));
        }
    }
}

/* --- Sizes ------------------------------------------------------------------------------------ */

static void huge_models_take_no_memory(void **state)
{
    (void)state;
    struct made m = make_trace(61, 384, 8, 6, 45 * FB_MIB); /* a trillion parameters and a bit */
    struct fb_sim_options options;
    struct fb_sim_report r;
    fb_sim_options_init(&options);
    options.mem_bytes = 300 * FB_GIB;
    options.prefill = true;
    uint64_t before = fb_memory_rss();
    simulate(m.shape, m.path, &options, &r);
    assert_true(r.cache_bytes > 290 * FB_GIB && r.memory_bytes <= options.mem_bytes);
    fb_sim_report_release(&r);
    /* Bookkeeping and partly used pages only: not a byte of a slot. */
    assert_true(fb_memory_rss() < before + 64 * FB_MIB);
    free(m.routes);
}

/* Dense weights that do not fit into memory are read once per token, whatever the cache does. */
static void dense_weights_are_streamed(void **state)
{
    (void)state;
    struct made m = make_trace(4, 16, 3, 20, 1);
    struct fb_synth_shape shape;
    const char *path = temp_path("dense.gguf");
    fb_synth_shape_init(&shape);
    shape.arch = "qwen3moe";
    shape.layers = 4;
    shape.embd = 1024;
    shape.heads = 16;
    shape.ff = 256;
    shape.experts = 16;
    shape.experts_used = 3;
    shape.vocab = 300;
    assert_int_equal(fb_synth_random(&shape, path, NULL, NULL), FOREBAY_OK);
    uint64_t last = UINT64_MAX;
    for (uint64_t mem = 4; mem <= 32; mem += 4) {
        struct fb_sim_options options;
        struct fb_sim_report r;
        fb_sim_options_init(&options);
        options.mem_bytes = mem * FB_MIB;
        options.warm_up = 5;
        simulate(path, m.path, &options, &r);
        assert_true(r.memory_bytes <= options.mem_bytes);
        /* Prefetching may be one pass in front at the beginning and at the end. */
        uint64_t a_token = r.decode.dense_bytes / r.decode.tokens;
        assert_true(a_token <= last);
        assert_true(r.decode.seconds > 0 && r.decode.stall_s <= r.decode.seconds);
        last = a_token;
        fb_sim_report_release(&r);
    }
    assert_true(last == 0);
    struct fb_sim_options options; /* a device that computes all experts holds these weights */
    struct fb_sim_report r;
    fb_sim_options_init(&options);
    options.mem_bytes = 4 * FB_MIB;
    options.device_slots = 3;
    simulate(path, m.path, &options, &r);
    assert_true(r.decode.dense_bytes == 0 && r.resident_bytes == 0 && r.decode.requests > 0);
    fb_sim_report_release(&r);
    free(m.routes);
}

/* A batch that needs more experts than there are slots reads each of them once. */
static void batches_need_no_slots(void **state)
{
    (void)state;
    struct made m = make_trace(3, 32, 3, 50, 4096);
    write_trace(&m, 40);
    uint64_t distinct = 0;
    for (int l = 0; l < m.layers; l++) {
        bool seen[32] = {false};
        for (int i = 0; i < 40 * m.top_k; i++) {
            int *expert = &route(&m, i / m.top_k, l)[i % m.top_k];
            distinct += !seen[*expert];
            seen[*expert] = true;
        }
    }
    for (int slots = m.top_k; slots <= m.experts; slots++) {
        struct fb_sim_options options;
        struct fb_sim_report r;
        fb_sim_options_init(&options);
        options.slots = slots;
        options.prefill = true;
        simulate(m.shape, m.path, &options, &r);
        assert_int_equal(r.prefill.tokens, 40);
        assert_int_equal(r.prefill.requests, 40 * m.layers * m.top_k);
        assert_int_equal(r.prefill.hits, 0);
        assert_int_equal(r.prefill.expert_bytes, distinct * m.expert_bytes);
        fb_sim_report_release(&r);
    }
    free(m.routes);
}

/* --- A device --------------------------------------------------------------------------------- */

/* What becomes of each expert that a token uses, layer by layer. */
struct device_miss {
    int expert; /* that misses the device's slots, or -1: no more of this token */
    int lost;   /* the expert that was in the slot it gets, or -1 */
    bool given; /* it gets one */
};

/* [tokens][layers][top_k] */
static struct device_miss *misses_of_device(const struct made *m, int device_slots)
{
    static const int uses[] = {1, 1, 1, 1, 1, 1, 1, 1};
    int *numbers = fb_xcalloc(3 * (size_t)m->layers, sizeof *numbers);
    int *slot_of = fb_xcalloc(4 * (size_t)m->experts, sizeof *slot_of);
    int *missing = slot_of + m->experts, *lost = missing + m->experts, *slots = lost + m->experts;
    size_t n = (size_t)m->tokens * (size_t)m->layers * (size_t)m->top_k;
    struct device_miss *misses = fb_xcalloc(n, sizeof *misses);
    for (int l = 0; l < m->layers; l++) {
        numbers[l] = m->experts;
        numbers[m->layers + l] = 1;
        numbers[2 * m->layers + l] = device_slots;
    }
    struct fb_tier *tier =
        fb_tier_new(m->layers, numbers, numbers + m->layers, numbers + 2 * (ptrdiff_t)m->layers);
    for (int i = 0; i < m->tokens * m->layers; i++) {
        int t = i / m->layers, l = i % m->layers;
        const struct fb_tier_need need = {route(m, t, l), uses, m->top_k};
        bool fits;
        int n_missing = fb_tier_open(tier, l, &need, slot_of, missing, slots, lost, &fits);
        for (int k = 0; k < m->top_k; k++) {
            bool missed = k < n_missing, given = missed && slots[k] >= 0;
            misses[i * m->top_k + k] =
                (struct device_miss){missed ? missing[k] : -1, given ? lost[k] : -1, given};
            if (given) {
                fb_tier_fill(tier, l, slots[k], 0);
            }
        }
        fb_tier_close(tier, l);
    }
    fb_tier_free(tier);
    free(numbers);
    free(slot_of);
    return misses;
}

/* A layer's experts in RAM. */
struct naive_ram {
    long used[32]; /* when last, 0: never */
    bool here[32], above[32], pinned[32];
};

/* Whether a is evicted before b: first what is on the device as well, then the oldest. */
static bool goes_first(const struct naive_ram *r, int a, int b)
{
    return r->above[a] != r->above[b] ? r->above[a] : r->used[a] < r->used[b];
}

/* Makes room for an expert that is not here. False: it is only `offered`, and not worth it. */
static bool bring(struct naive_ram *r, const struct made *m, int slots, int expert, bool offered)
{
    int victim = -1, present = 0;
    for (int e = 0; e < m->experts; e++) {
        present += r->here[e];
        victim =
            r->here[e] && !r->pinned[e] && (victim < 0 || goes_first(r, e, victim)) ? e : victim;
    }
    if (present == slots && offered && (victim < 0 || !goes_first(r, victim, expert))) {
        return false;
    }
    if (present == slots) {
        r->here[victim] = false;
    }
    return r->here[expert] = true;
}

/* The experts of one token at one layer that the device misses: they are read, while what they have
 * replaced is copied back; then they are uploaded. */
static void naive_layer(const struct made *m, const struct fb_sim_options *o, struct naive_ram *r,
    const struct device_miss *miss, struct fb_sim_figures *f)
{
    int n = 0, misses = 0, back = 0;
    for (; n < m->top_k && miss[n].expert >= 0; n++) {
        if (miss[n].lost >= 0) {
            r->above[miss[n].lost] = false;
        }
        r->pinned[miss[n].expert] = r->here[miss[n].expert];
    }
    for (int k = 0; k < n; k++) {
        if (!r->here[miss[k].expert]) {
            bring(r, m, o->slots, miss[k].expert, false);
            r->pinned[miss[k].expert] = true;
            misses++;
        }
    }
    for (int k = 0; k < n; k++) {
        back += miss[k].lost >= 0 && !r->here[miss[k].lost] &&
                bring(r, m, o->slots, miss[k].lost, true);
    }
    for (int k = 0; k < n; k++) {
        r->above[miss[k].expert] = miss[k].given;
        r->pinned[miss[k].expert] = false;
    }
    double read = misses * (double)m->expert_bytes / o->disk_bytes_per_s + o->latency_s;
    double copy = back * (double)m->expert_bytes / o->upload_bytes_per_s;
    double ahead = copy; /* and what the device computes with before it waits, if not all fit */
    ahead +=
        o->device_slots >= m->top_k ? 0 : o->compute_s / m->layers / 2 * (m->top_k - n) / m->top_k;
    f->stall_s += misses && read > ahead ? read - ahead : 0;
    f->upload_bytes += (uint64_t)n * m->expert_bytes;
    f->back_bytes += (uint64_t)back * m->expert_bytes;
    f->requests += (uint64_t)n;
    f->hits += (uint64_t)(n - misses);
}

/* For LRU in RAM, and experts of one part and whole blocks. */
static void naive_device(
    const struct made *m, const struct fb_sim_options *o, struct fb_sim_figures *f)
{
    struct device_miss *misses = misses_of_device(m, o->device_slots);
    struct naive_ram *ram = fb_xcalloc((size_t)m->layers, sizeof *ram);
    long now = 0;
    *f = (struct fb_sim_figures){0};
    for (int i = 0; i < m->tokens * m->layers; i++) {
        struct naive_ram *r = &ram[i % m->layers];
        const int *experts = route(m, i / m->layers, i % m->layers);
        for (int k = 0; k < m->top_k; k++) {
            r->used[experts[k]] = ++now;
        }
        naive_layer(m, o, r, misses + (ptrdiff_t)i * m->top_k, f);
    }
    f->copy_s = (double)(f->upload_bytes + f->back_bytes) / o->upload_bytes_per_s;
    f->seconds = f->stall_s + f->copy_s + m->tokens * o->compute_s;
    free(misses);
    free(ram);
}

static void assert_near(double got, double expected)
{
    double error = got - expected;
    if (error * error > 1e-10 * expected * expected) {
        fail_msg("%.9f s, expected %.9f", got, expected);
    }
}

static void a_device_equals_the_naive_model(void **state)
{
    (void)state;
    static const int cases[][4] = {{1, 4, 1, 50}, {3, 16, 3, 60}, {5, 24, 4, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made m = make_trace(
            cases[i][0], cases[i][1], cases[i][2], cases[i][3], (uint64_t)(1 + rnd(256)) * 4096);
        for (int device_slots = 1; device_slots <= m.experts; device_slots += 2) {
            struct fb_sim_options options;
            struct fb_sim_report r;
            struct fb_sim_figures expected;
            fb_sim_options_init(&options);
            options.policy = "lru";
            options.slots = m.top_k + rnd(m.experts - m.top_k + 1);
            options.device_slots = device_slots;
            options.upload_bytes_per_s = 1e8 * (1 + rnd(300));
            options.warm_up = 0;
            options.compute_s = 1e-3 * rnd(20);
            simulate(m.shape, m.path, &options, &r);
            naive_device(&m, &options, &expected);
            uint64_t all = (uint64_t)m.tokens * (uint64_t)m.layers * (uint64_t)m.top_k;
            assert_int_equal(r.decode.device_requests, all);
            assert_int_equal(r.decode.device_hits, all - expected.requests);
            assert_int_equal(r.decode.requests, expected.requests);
            assert_int_equal(r.decode.hits, expected.hits);
            assert_int_equal(r.decode.upload_bytes, expected.upload_bytes);
            assert_int_equal(r.decode.back_bytes, expected.back_bytes);
            assert_near(r.decode.copy_s, expected.copy_s);
            assert_near(r.decode.stall_s, expected.stall_s);
            assert_near(r.decode.seconds, expected.seconds);
            fb_sim_report_release(&r);
        }
        free(m.routes);
    }
}

/* Also with slots for less than one token, and with batches. */
static void invariants_of_a_device(void **state)
{
    (void)state;
    struct made m = make_trace(3, 16, 4, 80, 12345);
    write_trace(&m, 30);
    for (int device_slots = 1; device_slots <= 16; device_slots++) {
        struct fb_sim_options options;
        struct fb_sim_report r;
        fb_sim_options_init(&options);
        options.policy = "lru";
        options.slots = 4 + rnd(13);
        options.device_slots = device_slots;
        options.warm_up = 0;
        options.prefill = true;
        simulate(m.shape, m.path, &options, &r);
        const struct fb_sim_figures *both[] = {&r.prefill, &r.decode};
        for (int i = 0; i < 2; i++) {
            const struct fb_sim_figures *f = both[i];
            assert_int_equal(f->device_requests, f->tokens * 3 * 4);
            assert_int_equal(f->device_requests - f->device_hits, f->requests);
        }
        const struct fb_sim_figures *f = &r.decode;
        assert_int_equal(f->upload_bytes, f->requests * m.expert_bytes);
        assert_int_equal(f->expert_bytes, (f->requests - f->hits) * m.expert_bytes);
        assert_true(f->device_hits > 0);
        assert_true(f->device_hits + f->hits <= r.optimum_hits);
        assert_true(r.optimum_hits <= f->device_requests);
        uint64_t hits = 0;
        for (int l = 0; l < r.n_layers; l++) {
            assert_int_equal(r.layers[l].device_slots, device_slots);
            hits += r.layers[l].device_hits;
        }
        assert_int_equal(hits, f->device_hits);
        fb_sim_report_release(&r);
    }
    free(m.routes);
}

/* An eighth is for the transit, or room for two units. */
static void a_device_is_divided_as_in_a_run(void **state)
{
    (void)state;
    struct made m = make_trace(4, 16, 3, 12, 1000);
    static const uint64_t sizes[][2] = {
        {6000, 1}, {9999, 1}, {10000, 2}, {40000, 8}, {73143, 16}, {FB_GIB, 16}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct fb_sim_options options;
        struct fb_sim_report r;
        fb_sim_options_init(&options);
        options.slots = 4;
        options.device_bytes = sizes[i][0];
        simulate(m.shape, m.path, &options, &r);
        assert_int_equal(r.layers[3].device_slots, sizes[i][1]);
        assert_int_equal(r.n_device_slots, 4 * sizes[i][1]);
        assert_int_equal(r.device_slot_bytes, 4000 * sizes[i][1]);
        fb_sim_report_release(&r);
    }
    free(m.routes);
}

/* --- Mistakes --------------------------------------------------------------------------------- */

static void mistakes_are_reported(void **state)
{
    (void)state;
    struct made m = make_trace(3, 16, 3, 12, 4096);
    static const struct {
        const char *shape;
        int slots, warm_up;
        uint64_t mem_bytes;
        enum forebay_status status;
        const char *complaint;
    } cases[] = {
        {"2x16,3,4K", 4, 0, 0, FOREBAY_E_USAGE, "2 layers of 16 experts, 3 used"},
        {"4x16,3,4K", 4, 0, 0, FOREBAY_E_USAGE, "(made: 3 layers of 16 experts, 3 used)"},
        {"3x15,3,4K", 4, 0, 0, FOREBAY_E_USAGE, "does not match"},
        {"3x16,2,4K", 4, 0, 0, FOREBAY_E_USAGE, "does not match"},
        {"3x16,17,4K", 4, 0, 0, FOREBAY_E_USAGE, "17 used experts of 16"},
        {"0x16,3,4K", 4, 0, 0, FOREBAY_E_USAGE, "layers"},
        {"3x1,1,4K", 4, 0, 0, FOREBAY_E_USAGE, "experts"},
        {"99999999999x16,3,4K", 4, 0, 0, FOREBAY_E_USAGE, "not a shape"},
        {"3x16,3,2T", 4, 0, 0, FOREBAY_E_USAGE, "1 byte to 1T"},
        {"3x16,3,0", 4, 0, 0, FOREBAY_E_USAGE, "1 byte to 1T"},
        {"3x16,3,4Q", 4, 0, 0, FOREBAY_E_USAGE, "not a shape"},
        {"3x16,3", 4, 0, 0, FOREBAY_E_USAGE, "not a shape"},
        {"3x16,3,4K", 2, 0, 0, FOREBAY_E_USAGE, "too few"},
        {"3x16,3,4K", 4, 12, 0, FOREBAY_E_USAGE, "leaves none"},
        {"3x16,3,4K", 0, 0, 1000, FOREBAY_E_NOFIT, "at least"},
        {"missing.gguf", 4, 0, 0, FOREBAY_E_IO, "missing.gguf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_sim_options options;
        struct fb_sim_report r;
        struct forebay_error err = {0};
        fb_sim_options_init(&options);
        options.slots = cases[i].slots;
        options.warm_up = cases[i].warm_up;
        options.mem_bytes = cases[i].mem_bytes;
        enum forebay_status status = fb_sim_run(cases[i].shape, m.path, &options, &r, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].complaint)) {
            fail_msg("%s: status %d, %s", cases[i].shape, status, err.message);
        }
    }
    free(m.routes);
}

static void mistakes_with_a_device_are_reported(void **state)
{
    (void)state;
    struct made m = make_trace(3, 16, 3, 12, 4096);
    static const struct {
        uint64_t device_bytes;
        int lookahead;
        bool repack;
        enum forebay_status status;
        const char *complaint;
    } cases[] = {
        {20000, 0, false, FOREBAY_E_NOFIT, "at least 20.0 KiB of its memory, not 19.5 KiB"},
        {65536, 0, true, FOREBAY_E_USAGE, "--repack"},
        {65536, 1, false, FOREBAY_E_USAGE, "--lookahead"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fb_sim_options options;
        struct fb_sim_report r;
        struct forebay_error err = {0};
        fb_sim_options_init(&options);
        options.slots = 4;
        options.device_bytes = cases[i].device_bytes;
        options.lookahead = cases[i].lookahead;
        options.repack = cases[i].repack;
        assert_int_equal(fb_sim_run(m.shape, m.path, &options, &r, &err), cases[i].status);
        assert_non_null(strstr(err.message, cases[i].complaint));
    }
    free(m.routes);
}

/* Naming the method is not enough: it needs a virtual disk with a rate. */
static void the_method_needs_a_virtual_disk(void **state)
{
    (void)state;
    struct fb_io_options options;
    struct fb_io_engine *engine;
    struct fb_io_virtual disk = {0};
    fb_io_options_init(&options);
    options.method = "sim";
    assert_int_equal(fb_io_open(&options, &engine, NULL), FOREBAY_E_USAGE);
    options.virtual_disk = &disk; /* without a rate */
    assert_int_equal(fb_io_open(&options, &engine, NULL), FOREBAY_E_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"known_hit_rates of OLMoE", known_hit_rates, NULL, NULL, &all_expected[0]},
        {"known_hit_rates of Qwen3", known_hit_rates, NULL, NULL, &all_expected[1]},
        {"known_hit_rates of gpt-oss", known_hit_rates, NULL, NULL, &all_expected[2]},
        cmocka_unit_test(the_policy_closes_a_third_of_the_gap_to_the_optimum),
        cmocka_unit_test(invariants_of_any_trace),
        cmocka_unit_test(virtual_time_follows_the_formula),
        cmocka_unit_test(the_optimum_is_optimal),
        cmocka_unit_test(huge_models_take_no_memory),
        cmocka_unit_test(dense_weights_are_streamed),
        cmocka_unit_test(batches_need_no_slots),
        cmocka_unit_test(a_device_equals_the_naive_model),
        cmocka_unit_test(invariants_of_a_device),
        cmocka_unit_test(a_device_is_divided_as_in_a_run),
        cmocka_unit_test(mistakes_are_reported),
        cmocka_unit_test(mistakes_with_a_device_are_reported),
        cmocka_unit_test(the_method_needs_a_virtual_disk),
    };
    return cmocka_run_group_tests_name("sim", tests, NULL, temp_remove);
}
