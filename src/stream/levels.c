/*
 * levels.c - the missing experts of a layer on their way up, and the lost ones on their way down.
 *
 *      fill, for as many experts at a time as the stream leases:
 *
 *        lease on missing experts     reads are issued
 *        lost ones copied down        while the disk reads; mostly into slots of copies of experts
 *                                     that are above
 *        each part: wait, copy up     overwrites the lost ones
 */
#include "stream/levels.h"

#include <stdlib.h>

#include "base/error.h"
#include "stream/components.h"

void fb_levels_release(struct fb_levels *l)
{
    FB_ASSERT(!l->open);
    fb_lease_clear(&l->lease);
    free(l->slot_of);
    free(l->missing);
    free(l->uses);
    free(l->slots);
    free(l->lost);
    free(l->admitted);
    free(l->rows);
}

static void reserve(struct fb_levels *l, int n_expert)
{
    if (n_expert > l->cap) {
        size_t bytes = (size_t)n_expert * sizeof *l->slot_of;
        l->cap = n_expert;
        l->slot_of = fb_xrealloc(l->slot_of, bytes);
        l->missing = fb_xrealloc(l->missing, bytes);
        l->uses = fb_xrealloc(l->uses, bytes);
        l->slots = fb_xrealloc(l->slots, bytes);
        l->lost = fb_xrealloc(l->lost, bytes);
        l->admitted = fb_xrealloc(l->admitted, bytes);
    }
}

/* --- What the cache in RAM is told ------------------------------------------------------------ */

static void set_above(struct fb_levels *l, int expert, bool above)
{
    struct fb_slots *slots = &l->stream->slots;
    fb_cache_set_above(
        slots->cache, slots->pool_of[l->group], slots->first_key[l->group] + expert, above);
}

static void teach_step(struct fb_levels *l, const int *experts, int n)
{
    struct fb_slots *slots = &l->stream->slots;
    int pool = slots->pool_of[l->group], first = slots->first_key[l->group];
    fb_cache_step(slots->cache, pool);
    for (int i = 0; i < n; i++) {
        fb_cache_touch(slots->cache, pool, first + experts[i]);
    }
}

/* A batch that does not fit is a step for each token, as in sets.c. */
static void teach(struct fb_levels *l, const struct fb_routes *routes)
{
    l->stream->taught[l->group] = true;
    if (l->fits) {
        teach_step(l, routes->needed, routes->n_needed);
        return;
    }
    for (int t = 0; t < routes->tokens; t++) {
        teach_step(l, routes->experts + (size_t)t * (size_t)routes->picks, routes->picks);
    }
}

/* --- Opening ---------------------------------------------------------------------------------- */

void fb_levels_open(struct fb_levels *l, int group, const struct fb_routes *routes)
{
    const struct fb_tier_need need = {routes->needed, routes->uses, routes->n_needed};
    FB_ASSERT(!l->open);
    reserve(l, l->weights->groups[group].n_expert);
    l->open = true;
    l->group = group;
    l->lease.group = -1;
    l->n_missing =
        fb_tier_open(l->tier, group, &need, l->slot_of, l->missing, l->slots, l->lost, &l->fits);
    teach(l, routes);
    for (int i = 0, k = 0; i < l->n_missing; i++) { /* both in the same order */
        while (routes->needed[k] != l->missing[i]) {
            k++;
        }
        l->uses[i] = routes->uses[k];
        l->admitted[l->missing[i]] = l->fits ? -1 : l->slots[i];
        if (l->lost[i] >= 0) {
            set_above(l, l->lost[i], false);
        }
    }
}

/* --- Filling slots ---------------------------------------------------------------------------- */

static char *unit_in_ram(const struct fb_levels *l, int weight, int slot)
{
    uint64_t stride;
    int n_slots;
    char *base = fb_stream_slots(l->stream, weight, &stride, &n_slots);
    return base + (uint64_t)slot * stride;
}

/* Brings an expert that loses its slot above down, if that is worth it. -1: none. */
static void copy_down(struct fb_levels *l, int expert, int slot_above)
{
    struct fb_slots *slots = &l->stream->slots;
    const struct fb_group *group = &l->weights->groups[l->group];
    if (expert < 0 || fb_slots_find(slots, l->group, expert) >= 0) {
        return;
    }
    int slot = fb_slots_offer(slots, l->group, expert);
    if (slot < 0) {
        return;
    }
    for (int p = 0; p < group->n_parts; p++) {
        l->device.down(
            l->device.user, group->weight[p], slot_above, unit_in_ram(l, group->weight[p], slot));
    }
    fb_cache_set_parts(slots->cache, slots->pool_of[l->group], slot, fb_group_parts(group));
}

/* Brings a part of the lease's experts up. */
static enum forebay_status copy_up(struct fb_levels *l, int part, struct forebay_error *err)
{
    int weight = l->weights->groups[l->group].weight[part];
    enum forebay_status status = fb_stream_lease_wait(l->stream, &l->lease, part, err);
    for (int i = 0; i < l->lease.n && status == FOREBAY_OK; i++) {
        int slot = l->slot_of[l->lease.experts[i]];
        l->device.up(l->device.user, weight, slot, unit_in_ram(l, weight, l->lease.slots[i]));
        fb_tier_fill(l->tier, l->group, slot, part);
    }
    return status;
}

/* Missing experts first .. first+n-1. */
static enum forebay_status fill(struct fb_levels *l, int first, int n, struct forebay_error *err)
{
    const struct fb_group *group = &l->weights->groups[l->group];
    enum forebay_status status = FOREBAY_OK;
    fb_stream_lease_begin(l->stream, &l->lease, l->group, l->missing + first, l->uses + first, n,
        fb_group_parts(group));
    for (int i = first; i < first + n; i++) {
        copy_down(l, l->lost[i], l->slots[i]);
    }
    for (int p = 0; p < group->n_parts && status == FOREBAY_OK; p++) {
        status = copy_up(l, p, err);
    }
    for (int i = first; i < first + n && status == FOREBAY_OK; i++) {
        set_above(l, l->missing[i], true);
    }
    fb_stream_lease_end(l->stream, &l->lease);
    return status;
}

enum forebay_status fb_levels_fill(struct fb_levels *l, struct forebay_error *err)
{
    int most = fb_stream_lease_limit(l->stream, l->group), n;
    enum forebay_status status = FOREBAY_OK;
    FB_ASSERT(l->open && l->fits);
    for (int i = 0; i < l->n_missing && status == FOREBAY_OK; i += n) {
        n = l->n_missing - i < most ? l->n_missing - i : most;
        status = fill(l, i, n, err);
    }
    return status;
}

/* --- Passing by ------------------------------------------------------------------------------- */

void fb_levels_ask(struct fb_levels *l, int weight, const struct fb_routes *all)
{
    struct fb_routes routes = *all;
    int n = all->tokens * all->picks;
    FB_ASSERT(l->open && !l->fits && l->n_missing > 0);
    if (n > l->cap_rows) {
        l->cap_rows = n;
        l->rows = fb_xrealloc(l->rows, (size_t)n * sizeof *l->rows);
    }
    for (int i = 0; i < n; i++) {
        l->rows[i] = l->slot_of[all->experts[i]] < 0 ? all->experts[i] : -1;
    }
    routes.experts = l->rows;
    routes.needed = l->missing;
    routes.uses = l->uses;
    routes.n_needed = l->n_missing;
    l->in_sets = !fb_stream_layer_begin(l->stream, &l->lease, weight, &routes);
    l->handed = -1;
    for (int i = 0; i < l->n_missing; i++) {
        copy_down(l, l->lost[i], l->slots[i]);
    }
}

/* The experts of the lease, if they have not been a set of this matrix yet. */
static enum forebay_status leased_set(
    struct fb_levels *l, int weight, struct fb_set *set, struct forebay_error *err)
{
    *set = (struct fb_set){0};
    if (l->handed == weight) {
        return FOREBAY_OK;
    }
    enum forebay_status status =
        fb_stream_lease_wait(l->stream, &l->lease, l->weights->weights[weight].part, err);
    if (status == FOREBAY_OK) {
        l->handed = weight;
        set->base = fb_stream_slots(l->stream, weight, &set->stride, &set->n_index);
        set->n = l->lease.n;
        set->experts = l->lease.experts;
        set->index = l->lease.slots;
    }
    return status;
}

/* Brings those of the set that are admitted into their slots. */
static void fill_admitted(struct fb_levels *l, int weight, const struct fb_set *set)
{
    for (int k = 0; k < set->n; k++) {
        int slot = l->admitted[set->experts[k]];
        if (slot >= 0) {
            const char *base = set->base;
            l->device.up(
                l->device.user, weight, slot, base + (uint64_t)set->index[k] * set->stride);
            fb_tier_fill(l->tier, l->group, slot, l->weights->weights[weight].part);
        }
    }
}

enum forebay_status fb_levels_next(
    struct fb_levels *l, int weight, struct fb_set *set, struct forebay_error *err)
{
    enum forebay_status status = l->in_sets ? fb_stream_sets_next(l->stream, weight, set, err)
                                            : leased_set(l, weight, set, err);
    if (status == FOREBAY_OK) {
        fill_admitted(l, weight, set);
    }
    return status;
}

/* --- Closing ---------------------------------------------------------------------------------- */

void fb_levels_close(struct fb_levels *l)
{
    if (!l->open) {
        return;
    }
    if (l->lease.group >= 0) {
        fb_stream_lease_end(l->stream, &l->lease);
    }
    if (l->in_sets) {
        fb_stream_sets_end(l->stream);
    }
    for (int i = 0; i < l->n_missing && !l->fits; i++) {
        int slot = l->slots[i];
        set_above(l, l->missing[i], slot >= 0 && fb_tier_expert(l->tier, l->group, slot) >= 0);
    }
    fb_tier_close(l->tier, l->group);
    l->in_sets = false;
    l->open = false;
}

/* --- More and fewer slots --------------------------------------------------------------------- */

void fb_levels_resize(struct fb_levels *l, int group, int n)
{
    FB_ASSERT(!l->open);
    l->group = group;
    for (int slot = n; slot < fb_tier_slots(l->tier, group); slot++) {
        int expert = fb_tier_expert(l->tier, group, slot);
        if (expert >= 0) {
            set_above(l, expert, false);
            copy_down(l, expert, slot);
        }
    }
    fb_tier_resize(l->tier, group, n);
}
