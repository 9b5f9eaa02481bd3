/*
 * policy_lfu.c - evicts the key with the fewest uses; all uses since the start count.
 *
 * A key keeps its count while it is not present. A count of uses while present would forget exactly
 * the keys that are evicted and return, and with them the lead over LRU.
 */
#include <stdlib.h>

#include "base/error.h"
#include "cache/policy.h"

struct lfu {
    size_t n_keys;
    uint64_t uses[]; /* [pool][key] */
};

static void *lfu_make(int n_pools, int n_keys)
{
    size_t n = (size_t)n_pools * (size_t)n_keys;
    struct lfu *lfu = fb_xcalloc(1, sizeof *lfu + n * sizeof lfu->uses[0]);
    lfu->n_keys = (size_t)n_keys;
    return lfu;
}

static void lfu_touch(void *state, int pool, int key)
{
    struct lfu *lfu = state;
    lfu->uses[(size_t)pool * lfu->n_keys + (size_t)key]++;
}

static const uint64_t *lfu_worth(void *state, int pool)
{
    const struct lfu *lfu = state;
    return lfu->uses + (size_t)pool * lfu->n_keys;
}

const struct fb_cache_policy fb_cache_lfu = {
    .name = "lfu",
    .make = lfu_make,
    .free = free,
    .touch = lfu_touch,
    .worth = lfu_worth,
};
