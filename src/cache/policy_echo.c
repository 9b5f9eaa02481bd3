/*
 * policy_echo.c - what came after moments like this one will come again.
 *
 * Text repeats itself, and routing with it. For each of the last WINDOW steps the policy knows how
 * much the present looks like it, over all layers, and lets what followed there count:
 *
 *      steps of the layer   ... 7     6     5     4     3     2     1     0 = now     (lag)
 *      alike[lag]           ... low   low   high  low   low   low   low
 *      what followed                        \--> 1/2   1/4   1/8 ...
 *
 * The lag between now and a moment like it stays the same from layer to layer and from token to
 * token for as long as the two go on in the same way. So one counter per lag, which all layers feed
 * and which forgets about as fast as a token takes, finds repetitions of any length:
 *
 *      alike[lag] = alike[lag] (1 - 1/layers) + share of that step's experts that are used now
 *
 * An expert is worth
 *
 *      its rate: the share of steps that used it, of which a sixteenth fades in each step
 *      + what its earlier uses echo: for each, the sum over all moments before it of
 *        (alike / the most alike)^8, halved for each step that lies between, normalised so that all
 *        echoes together weigh twice as much as all rates.
 *
 * Both are in expected uses per step, so layers can be compared. bench/eviction.sh measures it; that
 * the constants are not delicate is in bench/LOG.md.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cache/policy.h"

#define WINDOW 128 /* a power of two */
#define WORDS  (WINDOW / 64)
#define FADE   4          /* 1/16 */
#define ONE    (1u << 16) /* a use, or all experts of a step */

struct layer {
    unsigned now;            /* place of the present step among WINDOW */
    unsigned n_used;         /* experts used in it */
    bool settled;            /* worth[] is up to date */
    uint32_t share[WINDOW];  /* ONE / experts used in the step at that place */
    uint32_t *rate;          /* [n_experts] */
    uint64_t (*used)[WORDS]; /* [n_experts] bit p: used in the step at place p */
    uint64_t *worth;         /* [n_experts] */
};

struct echo {
    int n_layers;
    int n_experts;
    uint32_t forget;        /* ONE / n_layers */
    uint32_t alike[WINDOW]; /* by lag */
    struct layer layers[];
};

static void *echo_make(int n_layers, int n_experts)
{
    struct echo *echo = fb_xcalloc(1, sizeof *echo + (size_t)n_layers * sizeof(struct layer));
    echo->n_layers = n_layers;
    echo->n_experts = n_experts;
    echo->forget = ONE / (uint32_t)(n_layers > 0 ? n_layers : 1);
    for (int i = 0; i < n_layers; i++) {
        struct layer *l = &echo->layers[i];
        l->rate = fb_xcalloc((size_t)n_experts, sizeof *l->rate);
        l->used = fb_xcalloc((size_t)n_experts, sizeof *l->used);
        l->worth = fb_xcalloc((size_t)n_experts, sizeof *l->worth);
    }
    return echo;
}

static void echo_free(void *state)
{
    struct echo *echo = state;
    for (int i = 0; i < echo->n_layers; i++) {
        free(echo->layers[i].rate);
        free(echo->layers[i].used);
        free(echo->layers[i].worth);
    }
    free(echo);
}

static void echo_step(void *state, int layer)
{
    struct echo *echo = state;
    struct layer *l = &echo->layers[layer];
    l->share[l->now] = l->n_used ? ONE / l->n_used : 0;
    l->now = (l->now + 1) % WINDOW;
    l->n_used = 0;
    l->settled = false;
    uint64_t others = ~((uint64_t)1 << l->now % 64);
    for (int e = 0; e < echo->n_experts; e++) {
        l->rate[e] -= l->rate[e] >> FADE;
        l->used[e][l->now / 64] &= others;
    }
    for (int lag = 0; lag < WINDOW; lag++) {
        echo->alike[lag] -= (uint32_t)((uint64_t)echo->alike[lag] * echo->forget / ONE);
    }
}

static void echo_touch(void *state, int layer, int expert)
{
    struct echo *echo = state;
    struct layer *l = &echo->layers[layer];
    uint64_t *used = l->used[expert], bit = (uint64_t)1 << l->now % 64;
    if (used[l->now / 64] & bit) {
        return;
    }
    for (unsigned word = 0; word < WORDS; word++) {
        for (uint64_t left = used[word]; left; left &= left - 1) {
            unsigned place = word * 64 + (unsigned)__builtin_ctzll(left);
            echo->alike[(l->now - place) % WINDOW] += l->share[place];
        }
    }
    used[l->now / 64] |= bit;
    l->rate[expert] += ONE >> FADE;
    l->n_used++;
    l->settled = false;
}

/* The eighth power of a fraction of 2^12, as one of 2^24. */
static uint64_t sharpen(uint64_t fraction)
{
    uint64_t square = fraction * fraction >> 12;
    uint64_t fourth = square * square >> 12;
    return fourth * fourth;
}

/* How much a use in the step at each place echoes; false when nothing before was like now. */
static bool listen(const struct echo *echo, const struct layer *l, uint64_t *echoes)
{
    uint64_t weight[WINDOW], most = 0, sum = 0, sound = 0;
    for (int lag = 1; lag < WINDOW; lag++) {
        most = echo->alike[lag] > most ? echo->alike[lag] : most;
    }
    if (most == 0) {
        return false;
    }
    uint64_t inverse = ((uint64_t)1 << 32) / most;
    for (int lag = 1; lag < WINDOW; lag++) {
        weight[lag] = sharpen(echo->alike[lag] * inverse >> 20);
        sum += weight[lag];
    }
    uint64_t scale = ((uint64_t)ONE << 24) / (sum ? sum : 1);
    for (unsigned lag = WINDOW - 1; lag >= 1; lag--) {
        sound = sound / 2 + weight[lag];
        echoes[(l->now - (lag - 1)) % WINDOW] = sound * scale >> 24;
    }
    echoes[(l->now - (WINDOW - 1)) % WINDOW] = 0; /* what came before it is forgotten */
    return true;
}

static const uint64_t *echo_worth(void *state, int layer)
{
    struct echo *echo = state;
    struct layer *l = &echo->layers[layer];
    uint64_t echoes[WINDOW] = {0};
    if (l->settled) {
        return l->worth;
    }
    bool heard = listen(echo, l, echoes);
    for (int e = 0; e < echo->n_experts; e++) {
        uint64_t worth = l->rate[e];
        for (unsigned word = 0; heard && word < WORDS; word++) {
            for (uint64_t left = l->used[e][word]; left; left &= left - 1) {
                worth += echoes[word * 64 + (unsigned)__builtin_ctzll(left)];
            }
        }
        l->worth[e] = worth;
    }
    l->settled = true;
    return l->worth;
}

const struct fb_cache_policy fb_cache_echo = {
    .name = "echo",
    .comparable = true,
    .make = echo_make,
    .free = echo_free,
    .step = echo_step,
    .touch = echo_touch,
    .worth = echo_worth,
};
