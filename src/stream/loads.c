#include "stream/experts_internal.h"

#include <string.h>

#include "base/error.h"

#define MAX_ARRIVALS 64
/* Of loads and staging buffers, what is read ahead may take one half. */
#define AHEAD_SHARE 2

static int16_t *load_of(struct fb_experts *x, int pool, int slot, int part)
{
    return &x->pools[pool].load_of[(size_t)slot * FB_MAX_PARTS + (size_t)part];
}

struct load *fb_loads_find(struct fb_experts *x, int pool, int slot, int part)
{
    int index = *load_of(x, pool, slot, part);
    return index < 0 ? NULL : &x->loads[index];
}

bool fb_loads_missing(struct fb_experts *x, int pool, int slot, int part)
{
    return !(fb_cache_parts(x->cache, pool, slot) & 1u << part) &&
           *load_of(x, pool, slot, part) < 0;
}

static char *place(const struct fb_experts *x, const struct load *load)
{
    const struct fb_pool *pool = &x->pools[load->pool];
    return pool->memory[load->part] + (uint64_t)load->slot * pool->stride[load->part];
}

/* Closes the k-th open load. */
static void close_load(struct fb_experts *x, int k)
{
    int index = x->order[k];
    struct load *load = &x->loads[index];
    *load_of(x, load->pool, load->slot, load->part) = -1;
    if (load->stage >= 0) {
        x->stage_busy[load->stage] = false;
    }
    fb_cache_unpin(x->cache, load->pool, load->slot);
    x->n_open--;
    memmove(&x->order[k], &x->order[k + 1], (size_t)(x->n_open - k) * sizeof *x->order);
    x->order[x->n_open] = index;
}

/* The k-th open load will not come. */
static void give_up(struct fb_experts *x, int k)
{
    const struct load *load = &x->loads[x->order[k]];
    x->pools[load->pool].ahead[load->slot] &= (uint8_t) ~(1u << load->part);
    close_load(x, k);
}

/* The k-th open load is in place. */
static void in_place(struct fb_experts *x, int k)
{
    const struct load *load = &x->loads[x->order[k]];
    uint32_t parts = fb_cache_parts(x->cache, load->pool, load->slot);
    fb_cache_set_parts(x->cache, load->pool, load->slot, parts | 1u << load->part);
    close_load(x, k);
}

/* A free load, with a staging buffer if its weight needs one; NULL when there is none now. */
static struct load *open_load(struct fb_experts *x, int weight, enum fb_io_priority priority)
{
    int stage = -1, share = priority == FB_IO_PREFETCH ? AHEAD_SHARE : 1;
    if (x->n_open >= MAX_LOADS / share) {
        return NULL;
    }
    if (x->weights->weights[weight].unpack != FB_UNPACK_DIRECT) {
        for (stage = 0; stage < x->n_stages / share && x->stage_busy[stage]; stage++) {
        }
        if (stage == x->n_stages / share) {
            return NULL;
        }
        x->stage_busy[stage] = true;
    }
    struct load *load = &x->loads[x->order[x->n_open++]];
    load->arrived = false;
    load->ahead = priority == FB_IO_PREFETCH;
    load->stage = stage;
    return load;
}

bool fb_loads_issue(
    struct fb_experts *x, int group, int part, int expert, int slot, enum fb_io_priority priority)
{
    int weight = x->weights->groups[group].weight[part];
    const struct fb_weight *w = &x->weights->weights[weight];
    struct load *load = open_load(x, weight, priority);
    if (!load) {
        return false;
    }
    load->pool = x->pool_of[group];
    load->slot = slot;
    load->part = part;
    load->weight = weight;
    load->expert = expert;
    *load_of(x, load->pool, slot, part) = (int16_t)(load - x->loads);
    fb_cache_pin(x->cache, load->pool, slot);
    load->request = (struct fb_io_request){
        .file = fb_weight_file(x->weights, weight),
        .offset = fb_weight_offset(x->weights, weight, expert),
        .length = w->file_bytes,
        .buffer =
            load->stage >= 0 ? x->staging + (uint64_t)load->stage * x->stage_size : place(x, load),
        .priority = priority,
    };
    *(priority == FB_IO_DEMAND ? &x->stats.demand_bytes : &x->stats.prefetch_bytes) +=
        w->file_bytes;
    fb_io_submit(x->io, &load->request);
    return true;
}

/* Whether what was read may be used; if not, x->error says why. */
static bool is_good(struct fb_experts *x, const struct load *load)
{
    struct forebay_error error;
    if (fb_unpacker_verify(x->unpacker, &load->request, load->weight, load->expert, &error) ==
        FOREBAY_OK) {
        return true;
    }
    x->error = error;
    return false;
}

void fb_loads_collect(struct fb_experts *x)
{
    for (int k = x->n_open - 1; k >= 0; k--) {
        struct load *load = &x->loads[x->order[k]];
        bool demand = load->request.priority == FB_IO_DEMAND;
        bool failed = load->request.state == FB_IO_FAILED;
        if (load->arrived || (!failed && load->request.state != FB_IO_DONE)) {
            continue;
        }
        if ((failed && !demand) || !is_good(x, load)) {
            x->failed |= demand;
            give_up(x, k);
        } else if (load->stage < 0) {
            in_place(x, k);
        } else {
            load->arrived = true;
        }
    }
}

int fb_loads_settle(struct fb_experts *x, int part)
{
    struct fb_unpack arrivals[MAX_ARRIVALS];
    int settled[MAX_ARRIVALS];
    int n = 0;
    for (int k = 0; k < x->n_open && n < MAX_ARRIVALS; k++) {
        const struct load *load = &x->loads[x->order[k]];
        if (load->arrived && (part < 0 || load->part == part)) {
            const char *raw = load->request.buffer;
            arrivals[n].weight = load->weight;
            arrivals[n].raw = raw + fb_io_delta(load->request.offset);
            arrivals[n].dest = place(x, load);
            settled[n++] = k;
        }
    }
    if (n == 0) {
        return 0;
    }
    fb_unpacker_run(x->unpacker, arrivals, n);
    for (int i = n - 1; i >= 0; i--) { /* backwards: closing moves the later ones */
        in_place(x, settled[i]);
    }
    return n;
}

void fb_loads_block(struct fb_experts *x, bool ahead)
{
    uint64_t before = fb_io_now_ns(x->io);
    fb_io_wait_any(x->io);
    uint64_t waited = fb_io_now_ns(x->io) - before;
    x->stats.stall_ns += waited;
    x->stats.prefetch_stall_ns += ahead ? waited : 0;
}

void fb_loads_drain(struct fb_experts *x)
{
    fb_loads_collect(x);
    while (x->n_open > 0) {
        if (fb_loads_settle(x, -1) == 0) {
            fb_loads_block(x, false);
        }
        fb_loads_collect(x);
    }
}

void fb_loads_cancel_prefetch(struct fb_experts *x, int pool)
{
    for (int k = x->n_open - 1; k >= 0; k--) {
        struct load *load = &x->loads[x->order[k]];
        if (load->pool == pool && load->request.priority == FB_IO_PREFETCH &&
            fb_io_cancel(x->io, &load->request)) {
            x->stats.prefetch_bytes -= load->request.length;
            give_up(x, k);
        }
    }
}
