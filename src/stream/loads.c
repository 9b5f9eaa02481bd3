/*
 * loads.c - opens, collects and closes loads.
 *
 * `order` is a permutation of all loads: [0, n_open) are open, oldest first, the rest is free. A
 * slot knows its open loads by index (fb_pool.load_of), so that fb_loads_missing is O(1).
 *
 * Units are unpacked many at a time, because the owner's callback uses all threads.
 */
#include "stream/loads.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"

#define UNPACK_AT_ONCE 64
#define PREFETCH_SHARE 2 /* prefetches use at most 1/2 of all loads and of all staging buffers */

/* --- Making and freeing ----------------------------------------------------------------------- */

static bool make_staging(struct fb_loads *l, uint64_t bytes)
{
    const struct fb_weights *ws = l->weights;
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group >= 0 && ws->weights[i].unpack != FB_UNPACK_DIRECT) {
            l->stage_bytes = fb_max(l->stage_bytes, fb_weight_envelope(ws, i));
            l->stage_bytes =
                fb_max(l->stage_bytes, fb_round_up(ws->weights[i].stride, FB_BLOCK_BYTES));
        }
    }
    if (l->stage_bytes == 0) {
        return true;
    }
    l->n_stages = (int)fb_min(bytes / l->stage_bytes, FB_MAX_LOADS);
    FB_ASSERT(l->n_stages > 0);
    l->stage_busy = fb_xcalloc((size_t)l->n_stages, sizeof *l->stage_busy);
    l->staging = fb_vm_reserve(fb_loads_staging_bytes(l), true);
    if (l->staging && !fb_io_is_virtual(l->io)) {
        fb_vm_populate(l->staging, fb_loads_staging_bytes(l));
    }
    return l->staging != NULL;
}

bool fb_loads_init(struct fb_loads *l, struct fb_unpacker *unpacker, struct fb_slots *slots,
    uint64_t staging_bytes)
{
    l->unpacker = unpacker;
    l->io = unpacker->io;
    l->weights = unpacker->weights;
    l->slots = slots;
    for (int i = 0; i < FB_MAX_LOADS; i++) {
        l->order[i] = i;
    }
    return make_staging(l, staging_bytes);
}

void fb_loads_release(struct fb_loads *l)
{
    for (int k = 0; k < l->n_open; k++) { /* their bytes are not unpacked any more */
        struct fb_io_request *request = &l->loads[l->order[k]].request;
        if (!fb_io_cancel(l->io, request)) {
            fb_io_wait(l->io, request, NULL);
        }
    }
    if (l->staging) {
        fb_vm_release(l->staging, fb_loads_staging_bytes(l));
    }
    free(l->stage_busy);
}

uint64_t fb_loads_staging_bytes(const struct fb_loads *l)
{
    return (uint64_t)l->n_stages * l->stage_bytes;
}

char *fb_loads_staging(struct fb_loads *l)
{
    for (int i = 0; i < l->n_stages; i++) {
        if (l->stage_busy[i]) {
            fb_loads_drain(l);
            break;
        }
    }
    return l->staging;
}

/* --- Loads ------------------------------------------------------------------------------------ */

static int16_t *load_of(struct fb_loads *l, int pool, int slot, int part)
{
    return &l->slots->pools[pool].load_of[(size_t)slot * FB_MAX_PARTS + (size_t)part];
}

struct fb_load *fb_loads_find(struct fb_loads *l, int pool, int slot, int part)
{
    int index = *load_of(l, pool, slot, part);
    return index < 0 ? NULL : &l->loads[index];
}

bool fb_loads_missing(struct fb_loads *l, int pool, int slot, int part)
{
    return !(fb_cache_parts(l->slots->cache, pool, slot) & 1u << part) &&
           *load_of(l, pool, slot, part) < 0;
}

static char *dest_of(const struct fb_loads *l, const struct fb_load *load)
{
    const struct fb_pool *pool = &l->slots->pools[load->pool];
    return pool->memory[load->part] + (uint64_t)load->slot * pool->stride[load->part];
}

/* Closes the k-th open load. */
static void close_load(struct fb_loads *l, int k)
{
    int index = l->order[k];
    struct fb_load *load = &l->loads[index];
    *load_of(l, load->pool, load->slot, load->part) = -1;
    if (load->stage >= 0) {
        l->stage_busy[load->stage] = false;
    }
    fb_cache_unpin(l->slots->cache, load->pool, load->slot);
    l->n_open--;
    memmove(&l->order[k], &l->order[k + 1], (size_t)(l->n_open - k) * sizeof *l->order);
    l->order[l->n_open] = index;
}

/* Closes the k-th open load, whose part will not be present. */
static void abandon(struct fb_loads *l, int k)
{
    const struct fb_load *load = &l->loads[l->order[k]];
    l->slots->pools[load->pool].prefetched[load->slot] &= (uint8_t) ~(1u << load->part);
    close_load(l, k);
}

/* Closes the k-th open load, whose part is present now. */
static void part_present(struct fb_loads *l, int k)
{
    const struct fb_load *load = &l->loads[l->order[k]];
    uint32_t parts = fb_cache_parts(l->slots->cache, load->pool, load->slot);
    fb_cache_set_parts(l->slots->cache, load->pool, load->slot, parts | 1u << load->part);
    close_load(l, k);
}

/* A free load, with a staging buffer unless the weight is DIRECT; NULL: none is free now. */
static struct fb_load *open_load(struct fb_loads *l, int weight, enum fb_io_priority priority)
{
    int stage = -1, share = priority == FB_IO_PREFETCH ? PREFETCH_SHARE : 1;
    if (l->n_open >= FB_MAX_LOADS / share) {
        return NULL;
    }
    if (l->weights->weights[weight].unpack != FB_UNPACK_DIRECT) {
        for (stage = 0; stage < l->n_stages / share && l->stage_busy[stage]; stage++) {
        }
        if (stage == l->n_stages / share) {
            return NULL;
        }
        l->stage_busy[stage] = true;
    }
    struct fb_load *load = &l->loads[l->order[l->n_open++]];
    load->was_read = false;
    load->prefetched = priority == FB_IO_PREFETCH;
    load->stage = stage;
    return load;
}

bool fb_loads_issue(
    struct fb_loads *l, int group, int part, int expert, int slot, enum fb_io_priority priority)
{
    int weight = l->weights->groups[group].weight[part];
    const struct fb_weight *w = &l->weights->weights[weight];
    struct fb_load *load = open_load(l, weight, priority);
    if (!load) {
        return false;
    }
    load->pool = l->slots->pool_of[group];
    load->slot = slot;
    load->part = part;
    load->weight = weight;
    load->expert = expert;
    *load_of(l, load->pool, slot, part) = (int16_t)(load - l->loads);
    fb_cache_pin(l->slots->cache, load->pool, slot);
    load->request = (struct fb_io_request){
        .file = fb_weight_file(l->weights, weight),
        .offset = fb_weight_offset(l->weights, weight, expert),
        .length = w->file_bytes,
        .buffer = load->stage >= 0 ? l->staging + (uint64_t)load->stage * l->stage_bytes
                                   : dest_of(l, load),
        .priority = priority,
    };
    *(priority == FB_IO_DEMAND ? &l->stats.demand_bytes : &l->stats.prefetch_bytes) +=
        w->file_bytes;
    fb_io_submit(l->io, &load->request);
    return true;
}

/* Whether the bytes read may be used. The first failure of a demand read is the one to report. */
static bool is_usable(struct fb_loads *l, const struct fb_load *load)
{
    struct forebay_error error;
    if (fb_unpacker_verify(l->unpacker, &load->request, load->weight, load->expert, &error) ==
        FOREBAY_OK) {
        return true;
    }
    if (load->request.priority == FB_IO_DEMAND && !l->failed) {
        l->failed = true;
        l->error = error;
    }
    return false;
}

void fb_loads_collect(struct fb_loads *l)
{
    for (int k = l->n_open - 1; k >= 0; k--) {
        struct fb_load *load = &l->loads[l->order[k]];
        bool demand = load->request.priority == FB_IO_DEMAND;
        bool failed = load->request.state == FB_IO_FAILED;
        if (load->was_read || (!failed && load->request.state != FB_IO_DONE)) {
            continue;
        }
        if ((failed && !demand) || !is_usable(l, load)) {
            abandon(l, k);
        } else if (load->stage < 0) {
            part_present(l, k);
        } else {
            load->was_read = true;
        }
    }
}

int fb_loads_unpack(struct fb_loads *l, int part)
{
    struct fb_unpack units[UNPACK_AT_ONCE];
    int done[UNPACK_AT_ONCE];
    int n = 0;
    for (int k = 0; k < l->n_open && n < UNPACK_AT_ONCE; k++) {
        const struct fb_load *load = &l->loads[l->order[k]];
        if (load->was_read && (part < 0 || load->part == part)) {
            const char *raw = load->request.buffer;
            units[n].weight = load->weight;
            units[n].raw = raw + fb_io_delta(load->request.offset);
            units[n].dest = dest_of(l, load);
            done[n++] = k;
        }
    }
    if (n == 0) {
        return 0;
    }
    fb_unpacker_run(l->unpacker, units, n);
    for (int i = n - 1; i >= 0; i--) { /* backwards: closing moves the later ones */
        part_present(l, done[i]);
    }
    return n;
}

void fb_loads_block(struct fb_loads *l, bool prefetched)
{
    uint64_t before = fb_io_now_ns(l->io);
    fb_io_wait_any(l->io);
    uint64_t waited = fb_io_now_ns(l->io) - before;
    l->stats.stall_ns += waited;
    l->stats.prefetch_stall_ns += prefetched ? waited : 0;
}

void fb_loads_drain(struct fb_loads *l)
{
    fb_loads_collect(l);
    while (l->n_open > 0) {
        if (fb_loads_unpack(l, -1) == 0) {
            fb_loads_block(l, false);
        }
        fb_loads_collect(l);
    }
}

void fb_loads_cancel_prefetch(struct fb_loads *l, int pool)
{
    for (int k = l->n_open - 1; k >= 0; k--) {
        struct fb_load *load = &l->loads[l->order[k]];
        if (load->pool == pool && load->request.priority == FB_IO_PREFETCH &&
            fb_io_cancel(l->io, &load->request)) {
            l->stats.prefetch_bytes -= load->request.length;
            abandon(l, k);
        }
    }
}
