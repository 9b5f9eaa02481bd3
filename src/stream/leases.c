/*
 * leases.c - opening, filling and closing leases.
 *
 * begin passes over the experts twice: it pins those that have a slot first, so that a miss cannot
 * evict one of them, and then acquires slots for the others. pump() issues the missing reads part
 * by part (all gates, then all ups, then all downs), since that is the order in which they are
 * waited for; a read that gets no load or staging buffer is issued later, by wait.
 *
 * wait serves the open leases together: it issues reads of all of them, oldest first, unpacks the
 * part that is waited for before others, and blocks only when there is nothing left to do.
 */
#include "stream/leases.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "stream/adapt.h"
#include "stream/components.h"
#include "stream/prefetch.h"

int fb_stream_lease_limit(const struct fb_stream *s, int group)
{
    return s->slots.pools[s->slots.pool_of[group]].n_slots;
}

static void reserve(struct fb_lease *lease, int n)
{
    if (n > lease->cap) {
        lease->cap = n;
        lease->experts = fb_xrealloc(lease->experts, (size_t)n * sizeof *lease->experts);
        lease->slots = fb_xrealloc(lease->slots, (size_t)n * sizeof *lease->slots);
    }
}

void fb_lease_clear(struct fb_lease *lease)
{
    free(lease->experts);
    free(lease->slots);
    *lease = (struct fb_lease){.group = -1};
}

/* Issues the lease's missing reads in part-major order, until no load is free. */
static void pump(struct fb_stream *s, struct fb_lease *lease)
{
    int n_parts = s->weights->groups[lease->group].n_parts;
    int pool = s->slots.pool_of[lease->group];
    for (; lease->next_load < n_parts * lease->n; lease->next_load++) {
        int part = lease->next_load / lease->n, i = lease->next_load % lease->n;
        int slot = lease->slots[i];
        if ((lease->parts & 1u << part) && fb_loads_missing(&s->loads, pool, slot, part) &&
            !fb_loads_issue(&s->loads, lease->group, part, lease->experts[i], slot, FB_IO_DEMAND)) {
            return;
        }
    }
}

static int acquire(struct fb_stream *s, int group, int expert)
{
    int slot = fb_slots_acquire(&s->slots, group, expert);
    if (slot < 0) { /* all are pinned, some by loads of leases that have ended */
        fb_loads_drain(&s->loads);
        slot = fb_slots_acquire(&s->slots, group, expert);
    }
    FB_ASSERT(slot >= 0); /* the caller keeps to fb_stream_lease_limit */
    return slot;
}

static void open_lease(
    struct fb_stream *s, struct fb_lease *lease, int group, int n, uint32_t parts)
{
    FB_ASSERT(n > 0 && n <= fb_stream_lease_limit(s, group));
    FB_ASSERT(s->n_leases < FB_MAX_LEASES);
    reserve(lease, n);
    lease->group = group;
    lease->parts = parts;
    lease->n = n;
    lease->next_load = 0;
    lease->n_misses = 0;
    if (s->n_leases == 0) {
        s->loads.failed = false; /* a failure that nobody waited for: those parts are read again */
    }
    s->leases[s->n_leases++] = lease;
}

/* Finds and pins the slots of the experts that have one (else -1), and counts requests and hits. */
static void pin_present(
    struct fb_stream *s, struct fb_lease *lease, const int *experts, const int *uses)
{
    int pool = s->slots.pool_of[lease->group], first = s->slots.first_key[lease->group];
    for (int i = 0; i < lease->n; i++) {
        int key = first + experts[i];
        lease->experts[i] = experts[i];
        lease->slots[i] = fb_cache_find(s->slots.cache, pool, key);
        bool hit = fb_slots_has(&s->slots, lease->group, experts[i], lease->parts);
        if (lease->slots[i] >= 0) {
            fb_cache_pin(s->slots.cache, pool, lease->slots[i]);
            hit = !fb_prefetch_promote(s, lease->group, lease->slots[i], lease->parts) && hit;
        }
        lease->n_misses += !hit;
        if (uses && !s->taught[lease->group]) {
            fb_cache_touch(s->slots.cache, pool, key);
        }
        if (uses) {
            s->stats.expert_requests += (uint64_t)uses[i];
            s->stats.expert_hits += hit ? (uint64_t)uses[i] : 0;
        }
    }
}

void fb_stream_lease_begin(struct fb_stream *s, struct fb_lease *lease, int group,
    const int *experts, const int *uses, int n, uint32_t parts)
{
    int pool = s->slots.pool_of[group];
    fb_loads_collect(&s->loads);
    open_lease(s, lease, group, n, parts);
    if (uses && !s->taught[group]) {
        fb_cache_step(s->slots.cache, pool);
    }
    pin_present(s, lease, experts, uses);
    fb_prefetch_cancel(s, group);
    for (int i = 0; i < n; i++) {
        if (lease->slots[i] < 0) {
            if (uses &&
                n <= s->weights->catalog->n_expert_used) { /* prompts say little of a layer */
                fb_slots_borrow(&s->slots, group);
            }
            lease->slots[i] = acquire(s, group, experts[i]);
            fb_cache_pin(s->slots.cache, pool, lease->slots[i]);
        }
    }
    s->slots.pools[pool].n_users++;
    pump(s, lease);
}

bool fb_stream_lease_ready(struct fb_stream *s, const struct fb_lease *lease, int part)
{
    int pool = s->slots.pool_of[lease->group];
    for (int i = 0; i < lease->n; i++) {
        if (!(fb_cache_parts(s->slots.cache, pool, lease->slots[i]) & 1u << part)) {
            return false;
        }
    }
    return true;
}

/* Whether all that the lease still misses of the part is being prefetched. */
static bool all_prefetched(struct fb_stream *s, const struct fb_lease *lease, int part)
{
    int pool = s->slots.pool_of[lease->group];
    for (int i = 0; i < lease->n; i++) {
        const struct fb_load *load = fb_loads_find(&s->loads, pool, lease->slots[i], part);
        if (load ? !load->prefetched : fb_loads_missing(&s->loads, pool, lease->slots[i], part)) {
            return false;
        }
    }
    return true;
}

enum forebay_status fb_stream_lease_wait(
    struct fb_stream *s, struct fb_lease *lease, int part, struct forebay_error *err)
{
    FB_ASSERT(lease->parts & 1u << part);
    fb_stream_adapt(s, false);
    for (;;) {
        fb_io_poll(s->io);
        fb_loads_collect(&s->loads);
        if (s->loads.failed) {
            fb_loads_drain(&s->loads);
            s->loads.failed = false;
            if (err) {
                *err = s->loads.error;
            }
            return s->loads.error.status;
        }
        if (fb_stream_lease_ready(s, lease, part)) {
            return FOREBAY_OK;
        }
        for (int i = 0; i < s->n_leases; i++) {
            pump(s, s->leases[i]);
        }
        fb_prefetch_pump(s, lease->group);
        if (fb_loads_unpack(&s->loads, part) == 0 && fb_loads_unpack(&s->loads, -1) == 0) {
            FB_ASSERT(s->loads.n_open > 0);
            fb_loads_block(&s->loads, all_prefetched(s, lease, part));
        }
    }
}

static void forget(struct fb_stream *s, const struct fb_lease *lease)
{
    int i = 0;
    while (s->leases[i] != lease) {
        i++;
        FB_ASSERT(i < s->n_leases);
    }
    s->n_leases--;
    memmove(&s->leases[i], &s->leases[i + 1], (size_t)(s->n_leases - i) * sizeof *s->leases);
}

void fb_stream_lease_end(struct fb_stream *s, struct fb_lease *lease)
{
    int pool = s->slots.pool_of[lease->group];
    for (int i = 0; i < lease->n; i++) {
        fb_cache_unpin(s->slots.cache, pool, lease->slots[i]);
    }
    forget(s, lease);
    s->slots.pools[pool].n_users--;
    lease->group = -1;
    lease->n = 0;
}
