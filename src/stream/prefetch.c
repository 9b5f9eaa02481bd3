#include "stream/experts_internal.h"

#include <string.h>

/* Layers for which a pool that all share must have slots: one in use, one foreseen, and some that
 * are still being read or evicted. */
#define SHARED_LAYERS 4

/* Issues the missing reads of what is foreseen for the group; its experts lose their slots when
 * these are needed. */
static void pump_prefetch(struct fb_experts *x, int group)
{
    struct ahead *a = &x->ahead[group];
    int pool = x->pool_of[group], n_parts = x->weights->groups[group].n_parts;
    for (; a->next_load < n_parts * a->n; a->next_load++) {
        int part = a->next_load / a->n, expert = a->experts[a->next_load % a->n];
        int slot = fb_cache_find(x->cache, pool, x->first_id[group] + expert);
        if (slot < 0 || !fb_loads_missing(x, pool, slot, part)) {
            continue;
        }
        if (!fb_loads_issue(x, group, part, expert, slot, FB_IO_PREFETCH)) {
            return;
        }
        x->pools[pool].ahead[slot] |= 1u << part;
    }
}

void fb_prefetch_pump(struct fb_experts *x, int group)
{
    for (int i = 0; i < x->weights->n_groups; i++) {
        pump_prefetch(x, (group + i) % x->weights->n_groups);
    }
}

/* Slots for the experts, as far as there are any. Those that the first ones have, or get, are
 * pinned meanwhile: none is lost to another. Returns how many experts have one. */
static int reserve_ahead(struct fb_experts *x, int group, const int *experts, int n)
{
    int pool = x->pool_of[group], first = x->first_id[group], got = 0;
    int slots[MAX_AHEAD];
    for (int i = 0; i < n; i++) {
        slots[i] = fb_cache_find(x->cache, pool, first + experts[i]);
        if (slots[i] >= 0) {
            fb_cache_pin(x->cache, pool, slots[i]);
        }
    }
    for (; got < n; got++) {
        if (slots[got] < 0) {
            slots[got] = fb_experts_acquire(x, group, experts[got]);
            if (slots[got] < 0) {
                break;
            }
            fb_cache_pin(x->cache, pool, slots[got]);
        }
        fb_cache_protect(x->cache, pool, first + experts[got], 1);
    }
    for (int i = 0; i < n; i++) {
        if (slots[i] >= 0) {
            fb_cache_unpin(x->cache, pool, slots[i]);
        }
    }
    return got;
}

void fb_experts_prefetch(struct fb_experts *x, int group, const int *experts, int n)
{
    struct ahead *a = &x->ahead[group];
    a->n = a->next_load = 0;
    n = n < MAX_AHEAD ? n : MAX_AHEAD;
    if (x->n_pools < x->weights->n_groups && x->pools[0].n_slots < SHARED_LAYERS * n) {
        return; /* a small pool for all: what is foreseen would evict what is needed first */
    }
    a->n = reserve_ahead(x, group, experts, n);
    memcpy(a->experts, experts, (size_t)a->n * sizeof *experts);
    pump_prefetch(x, group);
}

bool fb_prefetch_claim(struct fb_experts *x, int group, int slot, uint32_t parts)
{
    int pool = x->pool_of[group];
    uint32_t ahead = x->pools[pool].ahead[slot] & parts;
    for (int p = 0; p < x->weights->groups[group].n_parts; p++) {
        struct load *load = fb_loads_find(x, pool, slot, p);
        if (load && (parts & 1u << p)) {
            fb_io_promote(x->io, &load->request);
        }
        if (ahead & 1u << p) {
            int weight = x->weights->groups[group].weight[p];
            x->stats.prefetch_used_bytes += x->weights->weights[weight].file_bytes;
        }
    }
    x->pools[pool].ahead[slot] &= ~parts;
    return ahead != 0;
}

void fb_prefetch_cancel(struct fb_experts *x, int group)
{
    x->ahead[group].n = 0;
    fb_loads_cancel_prefetch(x, x->pool_of[group]);
}
