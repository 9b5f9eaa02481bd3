#include "stream/pool.h"

#include "os/memory.h"

uint64_t st_pool_slot_bytes(const struct st_pool *pool)
{
    uint64_t bytes = 0;
    for (int p = 0; p < pool->n_parts; p++) {
        bytes += pool->stride[p];
    }
    return bytes;
}

int st_pool_fewest(const struct st_pool *pool)
{
    return pool->max_slots < 2 ? pool->max_slots : 2;
}

int st_pool_share(const struct st_pool *pool, double share)
{
    int fewest = st_pool_fewest(pool);
    int n = fewest + (int)((double)(pool->max_slots - fewest) * share);
    return n < fewest ? fewest : n > pool->max_slots ? pool->max_slots : n;
}

/* Slots are given back at the end of each part, so that whole huge pages become free: of one that
 * is given back in part, the kernel keeps the memory until it needs it. */
static void give_back(struct st_pool *pool, int from)
{
    for (int p = 0; p < pool->n_parts; p++) {
        uint64_t keep = (uint64_t)from * pool->stride[p];
        st_vm_discard(pool->memory[p] + keep, pool->memory_bytes[p] - keep);
    }
}

static void take(struct st_pool *pool, int to)
{
    uint64_t page = st_vm_page_size();
    for (int p = 0; p < pool->n_parts; p++) {
        uint64_t from = (uint64_t)pool->n_slots * pool->stride[p] / page * page;
        st_vm_populate(pool->memory[p] + from, (uint64_t)to * pool->stride[p] - from);
    }
}

void st_pool_resize(struct st_pool *pool, struct st_cache *cache, int layer, int n)
{
    if (pool->n_passes > 0) {
        return;
    }
    for (int s = pool->n_slots - 1; s >= n; s--) {
        if (st_cache_pinned(cache, layer, s)) {
            n = s + 1;
        }
    }
    if (n == pool->n_slots) {
        return;
    }
    st_cache_resize(cache, layer, n);
    if (n < pool->n_slots) {
        give_back(pool, n);
    } else {
        take(pool, n);
    }
    pool->n_slots = n;
}
