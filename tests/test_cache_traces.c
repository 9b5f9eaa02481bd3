/*
 * test_cache_traces.c - real routing through the cache, against hit rates found independently.
 *
 * The expected figures are those of the README beside the traces. The counting rule that gives
 * all eighteen of them, worked out by trying the alternatives:
 *   - Only the decode tokens are replayed, from an empty cache.
 *   - The first `warm_up` decode tokens fill it and are not counted.
 *   - A request is one expert needed by one token at one layer, a hit one that is present before
 *     anything of this token at this layer is placed. Rate = hits / requests over all layers, which
 *     is the average of the layers' rates, since every layer has the same number of requests.
 *   - Within a token a layer's experts are used in ascending order of their numbers. (In the order
 *     of the router's weights, which the files keep, LRU moves by about 0.2 points.)
 *   - Every layer has `slots` slots of its own; all experts of the token at the layer are pinned
 *     while the layer computes.
 *
 * The traces are found through FOREBAY_SHARED; without them only the optimum checks itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/error.h"
#include "cache/cache.h"
#include "optimum.h"

#define MAX_TOP_K 16
#define TOLERANCE 0.06 /* percentage points: the figures are rounded to 0.1 */
#define ALL_PARTS 7u

/* --- Traces ----------------------------------------------------------------------------------- */

struct trace {
    int n_layers;
    int n_experts;
    int top_k;
    int n_tokens; /* decode tokens */
    int *experts; /* [token][layer][top_k], ascending */
};

static const int *trace_route(const struct trace *t, int token, int layer)
{
    return t->experts + ((size_t)token * (size_t)t->n_layers + (size_t)layer) * (size_t)t->top_k;
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static int int_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return (int)json_integer_value(value);
}

static void trace_add(struct trace *t, const json_t *line)
{
    const json_t *layers = json_object_get(line, "layers");
    size_t row = (size_t)t->n_layers * (size_t)t->top_k;
    t->experts = fb_xrealloc(t->experts, ((size_t)t->n_tokens + 1) * row * sizeof(int));
    int *to = t->experts + (size_t)t->n_tokens++ * row;
    assert_int_equal(json_array_size(layers), t->n_layers);
    for (int l = 0; l < t->n_layers; l++, to += t->top_k) {
        const json_t *route = json_array_get(layers, (size_t)l);
        assert_int_equal(json_array_size(route), t->top_k);
        for (int i = 0; i < t->top_k; i++) {
            to[i] = (int)json_integer_value(json_array_get(route, (size_t)i));
        }
        qsort(to, (size_t)t->top_k, sizeof *to, by_number);
    }
}

/* Skips the test when the shared folder does not exist; a damaged trace fails it. */
static struct trace trace_load(const char *name)
{
    struct trace t = {0};
    char path[4096];
    const char *shared = getenv("FOREBAY_SHARED");
    snprintf(path, sizeof path, "%s/traces/%s", shared ? shared : "", name);
    FILE *file = shared ? fopen(path, "r") : NULL;
    if (!file) {
        skip();
    }
    json_error_t error;
    json_t *line;
    while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error))) {
        const char *phase = json_string_value(json_object_get(line, "phase"));
        if (t.n_layers == 0) {
            t.n_layers = int_of(line, "n_layer");
            t.n_experts = int_of(line, "n_expert");
            t.top_k = int_of(line, "top_k");
            assert_in_range(t.top_k, 1, MAX_TOP_K);
        } else if (strcmp(phase, "decode") == 0) {
            trace_add(&t, line);
        }
        json_decref(line);
    }
    /* Reading must stop at the end of the file only. */
    assert_int_equal(json_error_code(&error), json_error_premature_end_of_input);
    assert_true(feof(file));
    fclose(file);
    return t;
}

/* --- Through the cache, as the backend does it ------------------------------------------------ */

/* One token at one layer. Returns the hits. */
static int replay_layer(struct fb_cache *cache, int layer, const int *route, int top_k)
{
    int slots[MAX_TOP_K], missing[MAX_TOP_K];
    int n_held = 0, n_missing = 0, evicted;
    fb_cache_step(cache, layer);
    for (int i = 0; i < top_k; i++) {
        fb_cache_touch(cache, layer, route[i]);
        int slot = fb_cache_find(cache, layer, route[i]);
        if (slot < 0) {
            missing[n_missing++] = route[i];
            continue;
        }
        assert_int_equal(fb_cache_parts(cache, layer, slot), ALL_PARTS);
        fb_cache_pin(cache, layer, slot);
        slots[n_held++] = slot;
    }
    for (int i = 0; i < n_missing; i++) {
        int slot = fb_cache_acquire(cache, layer, missing[i], &evicted);
        assert_true(slot >= 0);
        fb_cache_pin(cache, layer, slot);
        fb_cache_set_parts(cache, layer, slot, ALL_PARTS);
        slots[n_held++] = slot;
    }
    for (int i = 0; i < n_held; i++) {
        fb_cache_unpin(cache, layer, slots[i]);
    }
    return top_k - n_missing;
}

static double replay(const struct trace *t, const char *policy, int slots, int warm_up)
{
    int *n_experts = fb_xcalloc((size_t)t->n_layers, sizeof(int));
    int *n_slots = fb_xcalloc((size_t)t->n_layers, sizeof(int));
    for (int l = 0; l < t->n_layers; l++) {
        n_experts[l] = t->n_experts;
        n_slots[l] = slots;
    }
    struct fb_cache *cache = fb_cache_new(t->n_layers, n_experts, n_slots, fb_cache_policy(policy));
    long hits = 0;
    for (int token = 0; token < t->n_tokens; token++) {
        for (int l = 0; l < t->n_layers; l++) {
            int n = replay_layer(cache, l, trace_route(t, token, l), t->top_k);
            hits += token < warm_up ? 0 : n;
        }
    }
    fb_cache_check(cache);
    fb_cache_free(cache);
    free(n_experts);
    free(n_slots);
    return 100.0 * (double)hits / ((double)(t->n_tokens - warm_up) * t->n_layers * t->top_k);
}

/* --- The optimum (Belady 1966: evict what is needed last) ------------------------------------- */

/* First token after `token` that needs the expert; n_tokens when none does. */
static int next_use(const struct trace *t, int layer, int token, int expert)
{
    for (token++; token < t->n_tokens; token++) {
        const int *route = trace_route(t, token, layer);
        for (int i = 0; i < t->top_k; i++) {
            if (route[i] == expert) {
                return token;
            }
        }
    }
    return t->n_tokens;
}

static bool contains(const int *list, int n, int value)
{
    for (int i = 0; i < n; i++) {
        if (list[i] == value) {
            return true;
        }
    }
    return false;
}

static int belady_victim(
    const struct trace *t, int layer, int token, const int *resident, int slots)
{
    int victim = -1, latest = -1;
    for (int s = 0; s < slots; s++) {
        int next = next_use(t, layer, token, resident[s]);
        bool needed_now = contains(trace_route(t, token, layer), t->top_k, resident[s]);
        if (!needed_now && next > latest) {
            victim = s;
            latest = next;
        }
    }
    assert_true(victim >= 0);
    return victim;
}

static long belady_layer(const struct trace *t, int layer, int *resident, int slots, int warm_up)
{
    long hits = 0;
    int n = 0;
    for (int token = 0; token < t->n_tokens; token++) {
        const int *route = trace_route(t, token, layer);
        for (int i = 0; i < t->top_k; i++) {
            hits += token >= warm_up && contains(resident, n, route[i]);
        }
        for (int i = 0; i < t->top_k; i++) {
            if (!contains(resident, n, route[i])) {
                int to = n < slots ? n++ : belady_victim(t, layer, token, resident, slots);
                resident[to] = route[i];
            }
        }
    }
    return hits;
}

static double belady(const struct trace *t, int slots, int warm_up)
{
    int *resident = fb_xcalloc((size_t)slots, sizeof(int));
    long hits = 0;
    for (int l = 0; l < t->n_layers; l++) {
        hits += belady_layer(t, l, resident, slots, warm_up);
    }
    free(resident);
    return 100.0 * (double)hits / ((double)(t->n_tokens - warm_up) * t->n_layers * t->top_k);
}

/* --- The optimum itself, against exhaustive search -------------------------------------------- */

static void tiny_trace(struct trace *t, uint32_t *random)
{
    for (int token = 0; token < TINY_STEPS; token++) {
        *random = *random * 1664525u + 1013904223u;
        int a = (int)(*random >> 16) % TINY_IDS;
        int b = (a + 1 + (int)(*random >> 24) % (TINY_IDS - 1)) % TINY_IDS;
        t->experts[2 * token] = a < b ? a : b;
        t->experts[2 * token + 1] = a < b ? b : a;
    }
}

static void test_belady_is_the_optimum(void **state)
{
    (void)state;
    int experts[TINY_STEPS * TINY_NEED], resident[TINY_IDS];
    struct trace t = {1, TINY_IDS, TINY_NEED, TINY_STEPS, experts};
    uint32_t random = 1;
    int below = 0;
    for (int i = 0; i < 60; i++) {
        tiny_trace(&t, &random);
        for (int slots = TINY_NEED; slots < TINY_IDS; slots++) {
            long optimum = belady_layer(&t, 0, resident, slots, 0);
            double rate = 100.0 * (double)optimum / (TINY_STEPS * TINY_NEED);
            assert_int_equal(optimum, most_hits(experts, slots));
            assert_true(replay(&t, "lru", slots, 0) <= rate + 1e-9);
            assert_true(replay(&t, "lfu", slots, 0) <= rate + 1e-9);
            below += replay(&t, "lru", slots, 0) < rate - 1e-9;
        }
    }
    assert_true(below > 0); /* the policies are not accidentally told the future */
}

/* --- Expected figures ------------------------------------------------------------------------- */

struct expected {
    const char *file;
    int warm_up;
    struct {
        int slots;
        double lru, lfu, belady;
    } at[2];
};

static struct expected all_expected[] = {
    {"olmoe-1b-7b.jsonl", 64, {{16, 61.1, 60.5, 73.6}, {32, 81.0, 81.3, 91.4}}},
    {"qwen3-30b-a3b-k6.jsonl", 32, {{16, 61.6, 65.8, 76.3}, {32, 83.2, 84.8, 91.7}}},
    {"gpt-oss-120b-k2.jsonl", 16, {{8, 55.1, 53.5, 69.6}, {16, 69.7, 70.5, 80.9}}},
};

static void expect(const char *what, int slots, double rate, double expected)
{
    print_message("# %-6s %2d slots: %.2f %%, expected %.1f\n", what, slots, rate, expected);
    if (!(rate > expected - TOLERANCE && rate < expected + TOLERANCE)) {
        fail_msg("%s with %d slots: %.2f %%, expected %.1f", what, slots, rate, expected);
    }
}

static void test_hit_rates(void **state)
{
    const struct expected *x = *state;
    struct trace t = trace_load(x->file);
    for (int i = 0; i < 2; i++) {
        int slots = x->at[i].slots;
        expect("lru", slots, replay(&t, "lru", slots, x->warm_up), x->at[i].lru);
        expect("lfu", slots, replay(&t, "lfu", slots, x->warm_up), x->at[i].lfu);
        expect("Belady", slots, belady(&t, slots, x->warm_up), x->at[i].belady);
    }
    free(t.experts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_belady_is_the_optimum),
        {"test_hit_rates of OLMoE", test_hit_rates, NULL, NULL, &all_expected[0]},
        {"test_hit_rates of Qwen3", test_hit_rates, NULL, NULL, &all_expected[1]},
        {"test_hit_rates of gpt-oss", test_hit_rates, NULL, NULL, &all_expected[2]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
