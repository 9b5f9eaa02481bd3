#include "stream/prefetch.h"

#include <string.h>

#include "base/error.h"
#include "stream/components.h"

#define MAX_LISTED 64
/* A shared pool must have slots for this many layers: one in use, one prefetched, and some whose
 * experts are still being read or evicted. */
#define SHARED_LAYERS 4

struct fb_prefetch_list {
    int n;
    int next_load; /* reads not issued yet: index into part-major (part, expert) order */
    int experts[MAX_LISTED];
};

struct fb_prefetch_list *fb_prefetch_lists_new(int n_groups)
{
    return fb_xcalloc((size_t)n_groups, sizeof(struct fb_prefetch_list));
}

/* Issues the missing reads of the group's list. An expert without a slot has lost it to another one
 * that was needed: it is skipped. */
static void pump_group(struct fb_stream *s, int group)
{
    struct fb_prefetch_list *list = &s->prefetch_lists[group];
    int pool = s->slots.pool_of[group], n_parts = s->weights->groups[group].n_parts;
    for (; list->next_load < n_parts * list->n; list->next_load++) {
        int part = list->next_load / list->n, expert = list->experts[list->next_load % list->n];
        int slot = fb_cache_find(s->slots.cache, pool, s->slots.first_key[group] + expert);
        if (slot < 0 || !fb_loads_missing(&s->loads, pool, slot, part)) {
            continue;
        }
        if (!fb_loads_issue(&s->loads, group, part, expert, slot, FB_IO_PREFETCH)) {
            return;
        }
        s->slots.pools[pool].prefetched[slot] |= 1u << part;
    }
}

void fb_prefetch_pump(struct fb_stream *s, int group)
{
    for (int i = 0; i < s->weights->n_groups; i++) {
        pump_group(s, (group + i) % s->weights->n_groups);
    }
}

/* Finds or acquires slots for the experts, in order, until all slots are pinned. Those of the list
 * are pinned meanwhile, so that none is evicted for another. Returns how many experts have one. */
static int reserve_slots(struct fb_stream *s, int group, const int *experts, int n)
{
    int pool = s->slots.pool_of[group], first = s->slots.first_key[group], n_reserved = 0;
    int slots[MAX_LISTED];
    for (int i = 0; i < n; i++) {
        slots[i] = fb_cache_find(s->slots.cache, pool, first + experts[i]);
        if (slots[i] >= 0) {
            fb_cache_pin(s->slots.cache, pool, slots[i]);
        }
    }
    for (; n_reserved < n; n_reserved++) {
        if (slots[n_reserved] < 0) {
            slots[n_reserved] = fb_slots_acquire(&s->slots, group, experts[n_reserved]);
            if (slots[n_reserved] < 0) {
                break;
            }
            fb_cache_pin(s->slots.cache, pool, slots[n_reserved]);
        }
        fb_cache_protect(s->slots.cache, pool, first + experts[n_reserved], 1);
    }
    for (int i = 0; i < n; i++) {
        if (slots[i] >= 0) {
            fb_cache_unpin(s->slots.cache, pool, slots[i]);
        }
    }
    return n_reserved;
}

void fb_stream_prefetch(struct fb_stream *s, int group, const int *experts, int n)
{
    struct fb_prefetch_list *list = &s->prefetch_lists[group];
    list->n = list->next_load = 0;
    n = n < MAX_LISTED ? n : MAX_LISTED;
    if (fb_slots_shared(&s->slots) && s->slots.pools[0].n_slots < SHARED_LAYERS * n) {
        return; /* in a small shared pool, prefetching evicts experts that are needed earlier */
    }
    list->n = reserve_slots(s, group, experts, n);
    memcpy(list->experts, experts, (size_t)list->n * sizeof *experts);
    pump_group(s, group);
}

bool fb_prefetch_promote(struct fb_stream *s, int group, int slot, uint32_t parts)
{
    int pool = s->slots.pool_of[group];
    uint32_t prefetched = s->slots.pools[pool].prefetched[slot] & parts;
    for (int p = 0; p < s->weights->groups[group].n_parts; p++) {
        struct fb_load *load = fb_loads_find(&s->loads, pool, slot, p);
        if (load && (parts & 1u << p)) {
            fb_io_promote(s->io, &load->request);
        }
        if (prefetched & 1u << p) {
            int weight = s->weights->groups[group].weight[p];
            s->loads.stats.prefetch_used_bytes += s->weights->weights[weight].file_bytes;
        }
    }
    s->slots.pools[pool].prefetched[slot] &= ~parts;
    return prefetched != 0;
}

void fb_prefetch_cancel(struct fb_stream *s, int group)
{
    s->prefetch_lists[group].n = 0;
    fb_loads_cancel_prefetch(&s->loads, s->slots.pool_of[group]);
}
