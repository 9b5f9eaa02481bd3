#include "stream/experts_internal.h"

#include <stdlib.h>

#include "base/error.h"

int fb_experts_lease_limit(const struct fb_experts *x, int group)
{
    return x->pools[x->pool_of[group]].n_slots;
}

static void reserve_pass(struct fb_lease *pass, int n)
{
    if (n > pass->cap) {
        pass->cap = n;
        pass->experts = fb_xrealloc(pass->experts, (size_t)n * sizeof *pass->experts);
        pass->slots = fb_xrealloc(pass->slots, (size_t)n * sizeof *pass->slots);
    }
}

void fb_lease_clear(struct fb_lease *pass)
{
    free(pass->experts);
    free(pass->slots);
    *pass = (struct fb_lease){.group = -1};
}

/* Issues the pass's missing reads in part-major order, as far as there is room. */
static void pump(struct fb_experts *x, struct fb_lease *pass)
{
    int n_parts = x->weights->groups[pass->group].n_parts;
    int pool = x->pool_of[pass->group];
    for (; pass->next_load < n_parts * pass->n; pass->next_load++) {
        int part = pass->next_load / pass->n, i = pass->next_load % pass->n;
        int slot = pass->slots[i];
        if ((pass->parts & 1u << part) && fb_loads_missing(x, pool, slot, part) &&
            !fb_loads_issue(x, pass->group, part, pass->experts[i], slot, FB_IO_DEMAND)) {
            return;
        }
    }
}

/* Takes a slot of another pool where the cache finds that better than to evict here. */
static void trade(struct fb_experts *x, int pool)
{
    int other, slot;
    if (!fb_cache_trade(x->cache, pool, &other, &slot)) {
        return;
    }
    struct fb_pool *to = &x->pools[pool], *from = &x->pools[other];
    if (fb_experts_most(x) - fb_pool_slot_bytes(from) + fb_pool_slot_bytes(to) <= x->most_bytes) {
        fb_pool_lend(from, other, slot, to, pool, x->cache);
    }
}

static int acquire(struct fb_experts *x, int group, int expert)
{
    int slot = fb_experts_acquire(x, group, expert);
    if (slot < 0) { /* all pinned, some perhaps by loads that nobody waits for */
        fb_loads_drain(x);
        slot = fb_experts_acquire(x, group, expert);
    }
    FB_ASSERT(slot >= 0); /* the caller keeps to the pass limit */
    return slot;
}

void fb_experts_begin(struct fb_experts *x, struct fb_lease *pass, int group, const int *experts,
    const int *uses, int n, uint32_t parts)
{
    int pool = x->pool_of[group], first = x->first_id[group];
    FB_ASSERT(n > 0 && n <= x->pools[pool].n_slots);
    reserve_pass(pass, n);
    pass->group = group;
    pass->parts = parts;
    pass->n = n;
    pass->next_load = 0;
    pass->n_misses = 0;
    fb_loads_collect(x);
    if (x->n_passes == 0) {
        x->failed = false; /* a failure that nobody waited for: those parts are read again */
    }
    FB_ASSERT(x->n_passes < MAX_PASSES);
    x->passes[x->n_passes++] = pass;
    if (uses) {
        fb_cache_step(x->cache, pool);
    }
    for (int i = 0; i < n; i++) { /* hits first: a miss must not evict one of them */
        int id = first + experts[i];
        pass->experts[i] = experts[i];
        pass->slots[i] = fb_cache_find(x->cache, pool, id);
        bool hit = fb_experts_has(x, group, experts[i], parts);
        if (pass->slots[i] >= 0) {
            fb_cache_pin(x->cache, pool, pass->slots[i]);
            hit = !fb_prefetch_claim(x, group, pass->slots[i], parts) && hit;
        }
        pass->n_misses += !hit;
        if (uses) {
            fb_cache_touch(x->cache, pool, id);
            x->stats.expert_requests += (uint64_t)uses[i];
            x->stats.expert_hits += hit ? (uint64_t)uses[i] : 0;
        }
    }
    fb_prefetch_cancel(x, group);
    for (int i = 0; i < n; i++) {
        if (pass->slots[i] < 0) {
            if (uses &&
                n <= x->weights->catalog->n_expert_used) { /* prompts say little of a layer */
                trade(x, pool);
            }
            pass->slots[i] = acquire(x, group, experts[i]);
            fb_cache_pin(x->cache, pool, pass->slots[i]);
        }
    }
    x->pools[pool].n_passes++;
    pump(x, pass);
}

bool fb_experts_ready(struct fb_experts *x, const struct fb_lease *pass, int part)
{
    int pool = x->pool_of[pass->group];
    for (int i = 0; i < pass->n; i++) {
        if (!(fb_cache_parts(x->cache, pool, pass->slots[i]) & 1u << part)) {
            return false;
        }
    }
    return true;
}

/* Whether all of the part that the pass still misses was asked for before it was needed. */
static bool all_ahead(struct fb_experts *x, const struct fb_lease *pass, int part)
{
    int pool = x->pool_of[pass->group];
    for (int i = 0; i < pass->n; i++) {
        const struct load *load = fb_loads_find(x, pool, pass->slots[i], part);
        if (load ? !load->ahead : fb_loads_missing(x, pool, pass->slots[i], part)) {
            return false;
        }
    }
    return true;
}

enum forebay_status fb_experts_wait(
    struct fb_experts *x, struct fb_lease *pass, int part, struct forebay_error *err)
{
    FB_ASSERT(pass->parts & 1u << part);
    for (;;) {
        fb_io_poll(x->io);
        fb_loads_collect(x);
        if (x->failed) {
            fb_loads_drain(x);
            x->failed = false;
            if (err) {
                *err = x->error;
            }
            return x->error.status;
        }
        if (fb_experts_ready(x, pass, part)) {
            return FOREBAY_OK;
        }
        for (int i = 0; i < x->n_passes; i++) {
            pump(x, x->passes[i]);
        }
        fb_prefetch_pump(x, pass->group);
        if (fb_loads_settle(x, part) == 0 && fb_loads_settle(x, -1) == 0) {
            FB_ASSERT(x->n_open > 0);
            fb_loads_block(x, all_ahead(x, pass, part));
        }
    }
}

void fb_experts_end(struct fb_experts *x, struct fb_lease *pass)
{
    int pool = x->pool_of[pass->group];
    for (int i = 0; i < pass->n; i++) {
        fb_cache_unpin(x->cache, pool, pass->slots[i]);
    }
    pass->group = -1;
    pass->n = 0;
    x->n_passes--;
    if (x->passes[0] == pass) {
        x->passes[0] = x->passes[1];
    }
    x->pools[pool].n_passes--;
}
