#include "stream/experts_internal.h"

#include <string.h>

#include "base/error.h"

#define MAX_ARRIVALS 64
/* Of loads and staging buffers, what is read ahead may take one half. */
#define AHEAD_SHARE 2

static int16_t *load_of(struct st_experts *x, int pool, int slot, int part)
{
    return &x->pools[pool].load_of[(size_t)slot * ST_MAX_PARTS + (size_t)part];
}

struct load *st_loads_find(struct st_experts *x, int pool, int slot, int part)
{
    int index = *load_of(x, pool, slot, part);
    return index < 0 ? NULL : &x->loads[index];
}

bool st_loads_missing(struct st_experts *x, int pool, int slot, int part)
{
    return !(st_cache_parts(x->cache, pool, slot) & 1u << part) &&
           *load_of(x, pool, slot, part) < 0;
}

static char *place(const struct st_experts *x, const struct load *load)
{
    const struct st_pool *pool = &x->pools[load->pool];
    return pool->memory[load->part] + (uint64_t)load->slot * pool->stride[load->part];
}

/* Closes the k-th open load. */
static void close_load(struct st_experts *x, int k)
{
    int index = x->order[k];
    struct load *load = &x->loads[index];
    *load_of(x, load->pool, load->slot, load->part) = -1;
    if (load->stage >= 0) {
        x->stage_busy[load->stage] = false;
    }
    st_cache_unpin(x->cache, load->pool, load->slot);
    x->n_open--;
    memmove(&x->order[k], &x->order[k + 1], (size_t)(x->n_open - k) * sizeof *x->order);
    x->order[x->n_open] = index;
}

/* The k-th open load will not come. */
static void give_up(struct st_experts *x, int k)
{
    const struct load *load = &x->loads[x->order[k]];
    x->pools[load->pool].ahead[load->slot] &= (uint8_t) ~(1u << load->part);
    close_load(x, k);
}

/* The k-th open load is in place. */
static void in_place(struct st_experts *x, int k)
{
    const struct load *load = &x->loads[x->order[k]];
    uint32_t parts = st_cache_parts(x->cache, load->pool, load->slot);
    st_cache_set_parts(x->cache, load->pool, load->slot, parts | 1u << load->part);
    close_load(x, k);
}

/* A free load, with a staging buffer if its weight needs one; NULL when there is none now. */
static struct load *open_load(struct st_experts *x, int weight, enum st_io_priority priority)
{
    int stage = -1, share = priority == ST_IO_PREFETCH ? AHEAD_SHARE : 1;
    if (x->n_open >= MAX_LOADS / share) {
        return NULL;
    }
    if (x->weights->weights[weight].arrival != ST_ARRIVE_DIRECT) {
        for (stage = 0; stage < x->n_stages / share && x->stage_busy[stage]; stage++) {
        }
        if (stage == x->n_stages / share) {
            return NULL;
        }
        x->stage_busy[stage] = true;
    }
    struct load *load = &x->loads[x->order[x->n_open++]];
    load->arrived = false;
    load->ahead = priority == ST_IO_PREFETCH;
    load->stage = stage;
    return load;
}

bool st_loads_issue(
    struct st_experts *x, int group, int part, int expert, int slot, enum st_io_priority priority)
{
    int weight = x->weights->groups[group].weight[part];
    const struct st_weight *w = &x->weights->weights[weight];
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
    st_cache_pin(x->cache, load->pool, slot);
    load->request = (struct st_io_request){
        .file = st_weight_file(x->weights, weight),
        .offset = st_weight_offset(x->weights, weight, expert),
        .length = w->file_bytes,
        .buffer =
            load->stage >= 0 ? x->staging + (uint64_t)load->stage * x->stage_size : place(x, load),
        .priority = priority,
    };
    *(priority == ST_IO_DEMAND ? &x->stats.demand_bytes : &x->stats.prefetch_bytes) +=
        w->file_bytes;
    st_io_submit(x->io, &load->request);
    return true;
}

/* Whether what was read may be used; if not, x->error says why. */
static bool is_good(struct st_experts *x, const struct load *load)
{
    struct strata_error error;
    if (st_arriver_judge(x->arriver, &load->request, load->weight, load->expert, &error) ==
        STRATA_OK) {
        return true;
    }
    x->error = error;
    return false;
}

void st_loads_collect(struct st_experts *x)
{
    for (int k = x->n_open - 1; k >= 0; k--) {
        struct load *load = &x->loads[x->order[k]];
        bool demand = load->request.priority == ST_IO_DEMAND;
        bool failed = load->request.state == ST_IO_FAILED;
        if (load->arrived || (!failed && load->request.state != ST_IO_DONE)) {
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

int st_loads_settle(struct st_experts *x, int part)
{
    struct st_arrival arrivals[MAX_ARRIVALS];
    int settled[MAX_ARRIVALS];
    int n = 0;
    for (int k = 0; k < x->n_open && n < MAX_ARRIVALS; k++) {
        const struct load *load = &x->loads[x->order[k]];
        if (load->arrived && (part < 0 || load->part == part)) {
            const char *raw = load->request.buffer;
            arrivals[n].weight = load->weight;
            arrivals[n].raw = raw + st_io_delta(load->request.offset);
            arrivals[n].dest = place(x, load);
            settled[n++] = k;
        }
    }
    if (n == 0) {
        return 0;
    }
    st_arriver_put(x->arriver, arrivals, n);
    for (int i = n - 1; i >= 0; i--) { /* backwards: closing moves the later ones */
        in_place(x, settled[i]);
    }
    return n;
}

void st_loads_block(struct st_experts *x, bool ahead)
{
    uint64_t before = st_io_now_ns(x->io);
    st_io_wait_any(x->io);
    uint64_t waited = st_io_now_ns(x->io) - before;
    x->stats.stall_ns += waited;
    x->stats.prefetch_stall_ns += ahead ? waited : 0;
}

void st_loads_drain(struct st_experts *x)
{
    st_loads_collect(x);
    while (x->n_open > 0) {
        if (st_loads_settle(x, -1) == 0) {
            st_loads_block(x, false);
        }
        st_loads_collect(x);
    }
}

void st_loads_cancel_ahead(struct st_experts *x, int pool)
{
    for (int k = x->n_open - 1; k >= 0; k--) {
        struct load *load = &x->loads[x->order[k]];
        if (load->pool == pool && load->request.priority == ST_IO_PREFETCH &&
            st_io_cancel(x->io, &load->request)) {
            x->stats.prefetch_bytes -= load->request.length;
            give_up(x, k);
        }
    }
}
