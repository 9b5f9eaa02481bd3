/*
 * policy_lfu.c - the expert with the fewest uses goes first; all uses since the start count.
 *
 * An expert keeps its count while it is not resident. Counting only while resident would
 * forget exactly the experts that come and go, and with them the lead over LRU.
 */
#include <stdlib.h>

#include "base/error.h"
#include "cache/policy.h"

struct lfu {
    size_t n_experts;
    uint64_t uses[]; /* [layer][expert] */
};

static void *lfu_make(int n_layers, int n_experts)
{
    size_t n = (size_t)n_layers * (size_t)n_experts;
    struct lfu *lfu = fb_xcalloc(1, sizeof *lfu + n * sizeof lfu->uses[0]);
    lfu->n_experts = (size_t)n_experts;
    return lfu;
}

static void lfu_touch(void *state, int layer, int expert)
{
    struct lfu *lfu = state;
    lfu->uses[(size_t)layer * lfu->n_experts + (size_t)expert]++;
}

static const uint64_t *lfu_worth(void *state, int layer)
{
    const struct lfu *lfu = state;
    return lfu->uses + (size_t)layer * lfu->n_experts;
}

const struct fb_cache_policy fb_cache_lfu = {
    .name = "lfu",
    .make = lfu_make,
    .free = free,
    .touch = lfu_touch,
    .worth = lfu_worth,
};
