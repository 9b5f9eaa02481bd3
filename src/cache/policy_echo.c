/*
 * policy_echo.c - the keys that followed moments like this one will be used again.
 *
 * Text repeats itself, and routing with it. For each of the last WINDOW steps the policy knows how
 * similar it was to the present, over all pools, and gives credit to what was used right after it:
 *
 *      steps of the pool    ... 7     6     5     4     3     2     1     0 = now     (lag)
 *      alike[lag]           ... low   low   high  low   low   low   low
 *      what followed                        \--> 1/2   1/4   1/8 ...
 *
 * While a passage repeats, the lag between now and its earlier occurrence stays the same from pool
 * to pool and from token to token. One counter per lag, to which all pools add and which decays
 * with about the time constant of one token, therefore finds repetitions of any length:
 *
 *      alike[lag] = alike[lag] (1 - 1/pools) + share of that step's keys that are used now
 *
 * A key is worth
 *
 *      its rate: the share of steps that used it, decaying by a sixteenth in each step
 *      + the echo of its earlier uses: for each, the sum over all moments before it of
 *        (alike / the largest alike)^8, halved for each step in between, normalised so that all
 *        echoes together weigh twice as much as all rates.
 *
 * Both are in expected uses per step, so pools can be compared. bench/eviction.sh measures the
 * policy; bench/LOG.md shows that the constants are not delicate.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cache/policy.h"

#define WINDOW 128 /* a power of two */
#define WORDS  (WINDOW / 64)
#define FADE   4          /* 1/16 */
#define ONE    (1u << 16) /* a use, or all keys of a step */

struct echo_pool {
    unsigned now;            /* position of the present step in the window */
    unsigned n_used;         /* keys used in it */
    bool current;            /* worth[] is up to date */
    uint32_t share[WINDOW];  /* ONE / keys used in the step at that position */
    uint32_t *rate;          /* [n_keys] */
    uint64_t (*used)[WORDS]; /* [n_keys] bit i: used in the step at position i */
    uint64_t *worth;         /* [n_keys] */
};

struct echo {
    int n_pools;
    int n_keys;
    uint32_t forget;        /* ONE / n_pools */
    uint32_t alike[WINDOW]; /* by lag */
    struct echo_pool pools[];
};

static void *echo_make(int n_pools, int n_keys)
{
    struct echo *echo = fb_xcalloc(1, sizeof *echo + (size_t)n_pools * sizeof(struct echo_pool));
    echo->n_pools = n_pools;
    echo->n_keys = n_keys;
    echo->forget = ONE / (uint32_t)(n_pools > 0 ? n_pools : 1);
    for (int i = 0; i < n_pools; i++) {
        struct echo_pool *p = &echo->pools[i];
        p->rate = fb_xcalloc((size_t)n_keys, sizeof *p->rate);
        p->used = fb_xcalloc((size_t)n_keys, sizeof *p->used);
        p->worth = fb_xcalloc((size_t)n_keys, sizeof *p->worth);
    }
    return echo;
}

static void echo_free(void *state)
{
    struct echo *echo = state;
    for (int i = 0; i < echo->n_pools; i++) {
        free(echo->pools[i].rate);
        free(echo->pools[i].used);
        free(echo->pools[i].worth);
    }
    free(echo);
}

static void echo_step(void *state, int pool)
{
    struct echo *echo = state;
    struct echo_pool *p = &echo->pools[pool];
    p->share[p->now] = p->n_used ? ONE / p->n_used : 0;
    p->now = (p->now + 1) % WINDOW;
    p->n_used = 0;
    p->current = false;
    uint64_t others = ~((uint64_t)1 << p->now % 64);
    for (int k = 0; k < echo->n_keys; k++) {
        p->rate[k] -= p->rate[k] >> FADE;
        p->used[k][p->now / 64] &= others;
    }
    for (int lag = 0; lag < WINDOW; lag++) {
        echo->alike[lag] -= (uint32_t)((uint64_t)echo->alike[lag] * echo->forget / ONE);
    }
}

static void echo_touch(void *state, int pool, int key)
{
    struct echo *echo = state;
    struct echo_pool *p = &echo->pools[pool];
    uint64_t *used = p->used[key], bit = (uint64_t)1 << p->now % 64;
    if (used[p->now / 64] & bit) {
        return;
    }
    for (unsigned word = 0; word < WORDS; word++) {
        for (uint64_t left = used[word]; left; left &= left - 1) {
            unsigned position = word * 64 + (unsigned)__builtin_ctzll(left);
            echo->alike[(p->now - position) % WINDOW] += p->share[position];
        }
    }
    used[p->now / 64] |= bit;
    p->rate[key] += ONE >> FADE;
    p->n_used++;
    p->current = false;
}

/* The eighth power of a fraction in units of 2^-12; the result is in units of 2^-24. */
static uint64_t sharpen(uint64_t fraction)
{
    uint64_t square = fraction * fraction >> 12;
    uint64_t fourth = square * square >> 12;
    return fourth * fourth;
}

/* Fills echoes[WINDOW]: the credit of a use in the step at each position. False when no earlier
 * moment was like the present. */
static bool fill_echoes(const struct echo *echo, const struct echo_pool *p, uint64_t *echoes)
{
    uint64_t weight[WINDOW], most = 0, sum = 0, credit = 0;
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
        credit = credit / 2 + weight[lag];
        echoes[(p->now - (lag - 1)) % WINDOW] = credit * scale >> 24;
    }
    echoes[(p->now - (WINDOW - 1)) % WINDOW] = 0; /* the moment before it has left the window */
    return true;
}

static const uint64_t *echo_worth(void *state, int pool)
{
    struct echo *echo = state;
    struct echo_pool *p = &echo->pools[pool];
    uint64_t echoes[WINDOW] = {0};
    if (p->current) {
        return p->worth;
    }
    bool any_echo = fill_echoes(echo, p, echoes);
    for (int k = 0; k < echo->n_keys; k++) {
        uint64_t worth = p->rate[k];
        for (unsigned word = 0; any_echo && word < WORDS; word++) {
            for (uint64_t left = p->used[k][word]; left; left &= left - 1) {
                worth += echoes[word * 64 + (unsigned)__builtin_ctzll(left)];
            }
        }
        p->worth[k] = worth;
    }
    p->current = true;
    return p->worth;
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
