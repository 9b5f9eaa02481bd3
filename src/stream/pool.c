#include "stream/pool.h"

#include <string.h>

#include "os/memory.h"
#include "os/populate.h"

uint64_t fb_pool_slot_bytes(const struct fb_pool *pool)
{
    uint64_t bytes = 0;
    for (int p = 0; p < pool->n_parts; p++) {
        bytes += pool->stride[p];
    }
    return bytes;
}

int fb_pool_fewest(const struct fb_pool *pool)
{
    return pool->max_slots < 2 ? pool->max_slots : 2;
}

int fb_pool_share(const struct fb_pool *pool, double share)
{
    int fewest = fb_pool_fewest(pool);
    int n = fewest + (int)((double)(pool->max_slots - fewest) * share);
    return n < fewest ? fewest : n > pool->max_slots ? pool->max_slots : n;
}

/* Slots are given back at the end of each part, so that whole huge pages become free: the kernel
 * keeps a huge page that is only partly given back until it needs the memory. */
static void give_back(struct fb_pool *pool, int from)
{
    for (int p = 0; p < pool->n_parts && !pool->hollow; p++) {
        uint64_t keep = (uint64_t)from * pool->stride[p];
        fb_populator_withdraw(
            pool->populator, pool->memory[p] + keep, pool->memory_bytes[p] - keep);
        fb_vm_discard(pool->memory[p] + keep, pool->memory_bytes[p] - keep);
    }
}

static void regain(struct fb_pool *pool, int to)
{
    uint64_t page = fb_vm_page_size();
    for (int p = 0; p < pool->n_parts && !pool->hollow; p++) {
        uint64_t from = (uint64_t)pool->n_slots * pool->stride[p] / page * page;
        fb_vm_populate(pool->memory[p] + from, (uint64_t)to * pool->stride[p] - from);
    }
}

void fb_pool_resize(struct fb_pool *pool, struct fb_cache *cache, int index, int n)
{
    if (pool->n_users > 0) {
        return;
    }
    for (int s = pool->n_slots - 1; s >= n; s--) {
        if (fb_cache_pinned(cache, index, s)) {
            n = s + 1;
        }
    }
    if (n == pool->n_slots) {
        return;
    }
    if (pool->holder) {
        pool->holder->let_go(pool->holder->user, index);
    }
    fb_cache_resize(cache, index, n);
    if (n < pool->n_slots) {
        give_back(pool, n);
    } else {
        regain(pool, n);
    }
    pool->n_slots = n;
}

static bool can_trade(const struct fb_pool *pool)
{
    return pool->n_users == 0 && !pool->holder && pool->n_slots == pool->max_slots;
}

static void copy_slot(struct fb_pool *pool, int from, int to)
{
    for (int p = 0; p < pool->n_parts && !pool->hollow; p++) {
        memcpy(pool->memory[p] + (uint64_t)to * pool->stride[p],
            pool->memory[p] + (uint64_t)from * pool->stride[p], pool->stride[p]);
    }
}

/* Makes the memory behind the last slot accessible. False: the system promises no more memory. */
static bool allow_another(struct fb_pool *pool)
{
    bool allowed = true;
    for (int p = 0; p < pool->n_parts && allowed; p++) {
        allowed = fb_vm_allow(
            pool->memory[p] + (uint64_t)pool->n_slots * pool->stride[p], pool->stride[p]);
    }
    return allowed;
}

bool fb_pool_lend(struct fb_pool *from, int from_index, int slot, struct fb_pool *to, int to_index,
    struct fb_cache *cache)
{
    int last = from->n_slots - 1;
    if (!can_trade(from) || !can_trade(to) || to->n_slots == to->room ||
        fb_cache_pinned(cache, from_index, last) || !allow_another(to)) {
        return false;
    }
    fb_cache_drop(cache, from_index, slot);
    if (slot != last) {
        copy_slot(from, last, slot);
        fb_cache_move(cache, from_index, last, slot);
    }
    from->prefetched[slot] = from->prefetched[last];
    from->prefetched[last] = 0;
    fb_pool_resize(from, cache, from_index, last);
    fb_pool_resize(to, cache, to_index, to->n_slots + 1);
    from->max_slots--;
    to->max_slots++;
    return true;
}
