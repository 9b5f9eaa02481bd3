/*
 * policy_lfu.c - the expert with the fewest uses goes first; all uses since the start count.
 *
 * An expert keeps its count while it is not resident. Counting only while resident would
 * forget exactly the experts that come and go, and with them the lead over LRU.
 */
#include "cache/policy.h"

/* The state is an array: uses of each expert. */
static size_t lfu_state_bytes(int n_experts)
{
    return (size_t)n_experts * sizeof(uint64_t);
}

static void lfu_touch(void *state, int expert)
{
    uint64_t *uses = state;
    uses[expert]++;
}

static uint64_t lfu_worth(const void *state, int expert)
{
    const uint64_t *uses = state;
    return uses[expert];
}

const struct st_cache_policy st_cache_lfu = {
    .name = "lfu",
    .state_bytes = lfu_state_bytes,
    .touch = lfu_touch,
    .worth = lfu_worth,
};
