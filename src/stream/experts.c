#include "stream/experts.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "stream/pool.h"

/* Reads open at once. More would only queue in the engine. */
#define MAX_LOADS    256
#define MAX_ARRIVALS 64
/* Of loads and staging buffers, what is read ahead may take one half. */
#define AHEAD_SHARE 2
#define MAX_AHEAD   64
#define ROOM        2 /* times the slots planned; more is never asked for (bench/LOG.md) */

struct load {
    struct st_io_request request;
    bool arrived; /* read, waiting to be put into place */
    bool ahead;   /* asked for before it was needed */
    int pool, slot, part, weight, expert;
    int stage; /* staging buffer, -1: read in place */
};

/* What a group's next pass will probably need, until it begins. */
struct ahead {
    int n, next_load; /* as in st_pass */
    int experts[MAX_AHEAD];
};

struct st_experts {
    struct st_arriver *arriver;
    struct st_io_engine *io;
    const struct st_weights *weights;

    int n_pools;
    struct st_pool *pools;
    int *pool_of;  /* [n_groups] */
    int *first_id; /* [n_groups] */
    struct st_cache *cache;

    struct load loads[MAX_LOADS];
    int order
        [MAX_LOADS]; /* indices into loads: the n_open open ones, oldest first, then the free */
    int n_open;
    int n_passes;        /* open */
    uint64_t most_bytes; /* of slots, as planned */
    char *staging;
    uint64_t staging_bytes, stage_size;
    int n_stages;
    bool *stage_busy;
    struct ahead *ahead; /* [n_groups] */

    bool failed; /* a read failed, and no wait has reported it yet */
    struct strata_error error;
    struct st_stream_stats stats;
};

/* --- Making and freeing -------------------------------------------------------------------- */

/* How many slots a pool may come to have by trading. */
static int room_for(int n_slots, int n_expert)
{
    return n_slots > n_expert / ROOM ? n_expert : ROOM * n_slots;
}

/* Lays out the pools: sizes only. */
static void plan_pools(struct st_experts *x, const struct st_stream_config *config)
{
    const struct st_weights *ws = x->weights;
    bool shared = config->shared_slots > 0;
    x->n_pools = shared ? 1 : ws->n_groups;
    x->pools = st_xcalloc((size_t)x->n_pools, sizeof *x->pools);
    x->pool_of = st_xcalloc((size_t)ws->n_groups, sizeof *x->pool_of);
    x->first_id = st_xcalloc((size_t)ws->n_groups, sizeof *x->first_id);
    x->ahead = st_xcalloc((size_t)ws->n_groups, sizeof *x->ahead);
    int id = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct st_group *group = &ws->groups[g];
        x->pool_of[g] = shared ? 0 : g;
        x->first_id[g] = shared ? id : 0;
        id += group->n_expert;
        struct st_pool *pool = &x->pools[x->pool_of[g]];
        pool->n_slots = shared ? config->shared_slots : config->slots[g];
        pool->max_slots = pool->n_slots;
        pool->room = shared ? pool->n_slots : room_for(pool->n_slots, group->n_expert);
        pool->hollow = st_io_is_virtual(x->io);
        pool->n_parts = group->n_parts > pool->n_parts ? group->n_parts : pool->n_parts;
        for (int p = 0; p < group->n_parts; p++) {
            pool->stride[p] =
                shared ? st_weights_shared_stride(ws, p) : ws->weights[group->weight[p]].stride;
        }
    }
}

static void make_cache(struct st_experts *x, const struct st_cache_policy *policy)
{
    const struct st_weights *ws = x->weights;
    int *experts = st_xcalloc((size_t)x->n_pools, sizeof *experts);
    int *slots = st_xcalloc((size_t)x->n_pools, sizeof *slots);
    for (int g = 0; g < ws->n_groups; g++) {
        experts[x->pool_of[g]] += ws->groups[g].n_expert;
    }
    for (int i = 0; i < x->n_pools; i++) {
        slots[i] = x->pools[i].n_slots;
    }
    x->cache = st_cache_new(x->n_pools, experts, slots, policy);
    for (int i = 0; i < x->n_pools; i++) { /* room for two tokens' experts stays in each */
        int least = 2 * ws->catalog->n_expert_used;
        st_cache_set_floor(x->cache, i, least < 1 || least > slots[i] ? slots[i] : least);
    }
    free(experts);
    free(slots);
}

static bool reserve_slots(struct st_experts *x)
{
    for (int i = 0; i < x->n_pools; i++) {
        struct st_pool *pool = &x->pools[i];
        size_t n_loads = (size_t)pool->room * ST_MAX_PARTS;
        pool->load_of = st_xcalloc(n_loads, sizeof *pool->load_of);
        pool->ahead = st_xcalloc((size_t)pool->room, sizeof *pool->ahead);
        for (size_t k = 0; k < n_loads; k++) {
            pool->load_of[k] = -1;
        }
        for (int p = 0; p < pool->n_parts; p++) {
            uint64_t planned = (uint64_t)pool->n_slots * pool->stride[p];
            pool->memory_bytes[p] = (uint64_t)pool->room * pool->stride[p];
            pool->memory[p] = st_vm_reserve(pool->memory_bytes[p], true);
            if (!pool->memory[p]) {
                return false;
            }
            st_vm_small_pages(pool->memory[p] + planned, pool->memory_bytes[p] - planned);
            x->stats.memory_bytes += planned;
        }
    }
    return true;
}

static bool make_staging(struct st_experts *x, uint64_t bytes)
{
    const struct st_weights *ws = x->weights;
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group >= 0 && ws->weights[i].arrival != ST_ARRIVE_DIRECT) {
            x->stage_size = st_max(x->stage_size, st_weight_envelope(ws, i));
            x->stage_size = st_max(x->stage_size, st_round_up(ws->weights[i].stride, ST_IO_ALIGN));
        }
    }
    if (x->stage_size == 0) {
        return true;
    }
    x->n_stages = (int)st_min(bytes / x->stage_size, MAX_LOADS);
    ST_ASSERT(x->n_stages > 0);
    x->stage_busy = st_xcalloc((size_t)x->n_stages, sizeof *x->stage_busy);
    x->staging_bytes = (uint64_t)x->n_stages * x->stage_size;
    x->staging = st_vm_reserve(x->staging_bytes, true);
    if (!x->staging) {
        return false;
    }
    if (!st_io_is_virtual(x->io)) {
        st_vm_populate(x->staging, x->staging_bytes);
    }
    x->stats.memory_bytes += x->staging_bytes;
    return true;
}

enum strata_status st_experts_new(struct st_arriver *arriver, const struct st_stream_config *config,
    struct st_experts **out, struct strata_error *err)
{
    const char *name =
        config->policy ? config->policy : st_stream_default_policy(config->shared_slots > 0);
    const struct st_cache_policy *policy = st_cache_policy(name);
    if (!policy) {
        return st_fail(
            err, STRATA_E_USAGE, st_cache_policy_names(), "unknown cache policy '%s'", name);
    }
    struct st_experts *x = st_xcalloc(1, sizeof *x);
    x->arriver = arriver;
    x->io = arriver->io;
    x->weights = arriver->weights;
    for (int i = 0; i < MAX_LOADS; i++) {
        x->order[i] = i;
    }
    plan_pools(x, config);
    if (!reserve_slots(x) || !make_staging(x, config->staging_bytes)) {
        st_experts_free(x);
        return st_fail(err, STRATA_E_NOMEM,
            "Lower --mem, or lift the address space limit (ulimit -v).",
            "cannot reserve memory for expert slots");
    }
    make_cache(x, policy);
    x->most_bytes = st_experts_most(x);
    *out = x;
    return STRATA_OK;
}

void st_experts_free(struct st_experts *x)
{
    if (!x) {
        return;
    }
    for (int k = 0; k < x->n_open; k++) { /* what they bring is not put into place any more */
        struct st_io_request *request = &x->loads[x->order[k]].request;
        if (!st_io_cancel(x->io, request)) {
            st_io_wait(x->io, request, NULL);
        }
    }
    for (int i = 0; i < x->n_pools; i++) {
        for (int p = 0; p < x->pools[i].n_parts; p++) {
            if (x->pools[i].memory[p]) {
                st_vm_release(x->pools[i].memory[p], x->pools[i].memory_bytes[p]);
            }
        }
        free(x->pools[i].load_of);
        free(x->pools[i].ahead);
    }
    if (x->staging) {
        st_vm_release(x->staging, x->staging_bytes);
    }
    st_cache_free(x->cache);
    free(x->stage_busy);
    free(x->ahead);
    free(x->first_id);
    free(x->pool_of);
    free(x->pools);
    free(x);
}

bool st_experts_populate(struct st_experts *x, strata_progress progress, void *user)
{
    uint64_t total = 0, done = 0;
    if (st_io_is_virtual(x->io)) {
        return true;
    }
    for (int i = 0; i < x->n_pools; i++) {
        for (int p = 0; p < x->pools[i].n_parts; p++) {
            total += (uint64_t)x->pools[i].n_slots * x->pools[i].stride[p];
        }
    }
    for (int i = 0; i < x->n_pools; i++) {
        for (int p = 0; p < x->pools[i].n_parts; p++) {
            uint64_t bytes = (uint64_t)x->pools[i].n_slots * x->pools[i].stride[p];
            st_vm_populate(x->pools[i].memory[p], bytes);
            done += bytes;
            if (progress && !progress("taking memory for experts", done, total, user)) {
                return false;
            }
        }
    }
    return true;
}

/* --- Loads --------------------------------------------------------------------------------- */

static int16_t *load_of(struct st_experts *x, int pool, int slot, int part)
{
    return &x->pools[pool].load_of[(size_t)slot * ST_MAX_PARTS + (size_t)part];
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

/* Starts reading one part of the expert in the slot. False when that must wait. */
static bool issue(
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

/* Looks at every open load: what was read in place is done, what failed is reported (unless nobody
 * has asked for it yet), the rest is marked as arrived. */
static void collect(struct st_experts *x)
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

/* Puts arrived loads of `part` (-1: any) into place. Returns how many. */
static int settle(struct st_experts *x, int part)
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

/* `ahead`: all that is waited for was asked for before it was needed. */
static void block(struct st_experts *x, bool ahead)
{
    uint64_t before = st_io_now_ns(x->io);
    st_io_wait_any(x->io);
    uint64_t waited = st_io_now_ns(x->io) - before;
    x->stats.stall_ns += waited;
    x->stats.prefetch_stall_ns += ahead ? waited : 0;
}

/* Waits until no load is open. What arrived late is thrown away only if its read failed. */
static void drain(struct st_experts *x)
{
    collect(x);
    while (x->n_open > 0) {
        if (settle(x, -1) == 0) {
            block(x, false);
        }
        collect(x);
    }
}

/* --- Passes -------------------------------------------------------------------------------- */

int st_experts_pass_limit(const struct st_experts *x, int group)
{
    return x->pools[x->pool_of[group]].n_slots;
}

static void reserve_pass(struct st_pass *pass, int n)
{
    if (n > pass->cap) {
        pass->cap = n;
        pass->experts = st_xrealloc(pass->experts, (size_t)n * sizeof *pass->experts);
        pass->slots = st_xrealloc(pass->slots, (size_t)n * sizeof *pass->slots);
    }
}

void st_pass_release(struct st_pass *pass)
{
    free(pass->experts);
    free(pass->slots);
    *pass = (struct st_pass){.group = -1};
}

/* Whether the part is neither in the slot nor on its way there. */
static bool missing(struct st_experts *x, int pool, int slot, int part)
{
    return !(st_cache_parts(x->cache, pool, slot) & 1u << part) &&
           *load_of(x, pool, slot, part) < 0;
}

/* Issues the pass's missing reads in part-major order, as far as there is room. */
static void pump(struct st_experts *x, struct st_pass *pass)
{
    int n_parts = x->weights->groups[pass->group].n_parts;
    int pool = x->pool_of[pass->group];
    for (; pass->next_load < n_parts * pass->n; pass->next_load++) {
        int part = pass->next_load / pass->n, i = pass->next_load % pass->n;
        int slot = pass->slots[i];
        if ((pass->parts & 1u << part) && missing(x, pool, slot, part) &&
            !issue(x, pass->group, part, pass->experts[i], slot, ST_IO_DEMAND)) {
            return;
        }
    }
}

/* Takes a slot of another pool where the cache finds that better than to evict here. */
static void trade(struct st_experts *x, int pool)
{
    int other, slot;
    if (!st_cache_trade(x->cache, pool, &other, &slot)) {
        return;
    }
    struct st_pool *to = &x->pools[pool], *from = &x->pools[other];
    if (st_experts_most(x) - st_pool_slot_bytes(from) + st_pool_slot_bytes(to) <= x->most_bytes) {
        st_pool_lend(from, other, slot, to, pool, x->cache);
    }
}

static int acquire(struct st_experts *x, int pool, int id)
{
    int evicted;
    int slot = st_cache_acquire(x->cache, pool, id, &evicted);
    if (slot < 0) { /* all pinned, some perhaps by loads that nobody waits for */
        drain(x);
        slot = st_cache_acquire(x->cache, pool, id, &evicted);
    }
    ST_ASSERT(slot >= 0); /* the caller keeps to the pass limit */
    x->pools[pool].ahead[slot] = 0;
    return slot;
}

/* --- Ahead of need ------------------------------------------------------------------------- */

/* The same for experts that are only foreseen: they lose their slots when these are needed. */
static void pump_ahead(struct st_experts *x, int group)
{
    struct ahead *a = &x->ahead[group];
    int pool = x->pool_of[group], n_parts = x->weights->groups[group].n_parts;
    for (; a->next_load < n_parts * a->n; a->next_load++) {
        int part = a->next_load / a->n, expert = a->experts[a->next_load % a->n];
        int slot = st_cache_find(x->cache, pool, x->first_id[group] + expert);
        if (slot < 0 || !missing(x, pool, slot, part)) {
            continue;
        }
        if (!issue(x, group, part, expert, slot, ST_IO_PREFETCH)) {
            return;
        }
        x->pools[pool].ahead[slot] |= 1u << part;
    }
}

static void pump_all_ahead(struct st_experts *x, int from)
{
    for (int i = 0; i < x->weights->n_groups; i++) {
        pump_ahead(x, (from + i) % x->weights->n_groups);
    }
}

/* Slots for the experts, as far as there are any. Those that the first ones have, or get, are
 * pinned meanwhile: none is lost to another. Returns how many experts have one. */
static int reserve_ahead(struct st_experts *x, int group, const int *experts, int n)
{
    int pool = x->pool_of[group], first = x->first_id[group], got = 0, evicted;
    int slots[MAX_AHEAD];
    for (int i = 0; i < n; i++) {
        slots[i] = st_cache_find(x->cache, pool, first + experts[i]);
        if (slots[i] >= 0) {
            st_cache_pin(x->cache, pool, slots[i]);
        }
    }
    for (; got < n; got++) {
        if (slots[got] < 0) {
            slots[got] = st_cache_acquire(x->cache, pool, first + experts[got], &evicted);
            if (slots[got] < 0) {
                break;
            }
            x->pools[pool].ahead[slots[got]] = 0;
            st_cache_pin(x->cache, pool, slots[got]);
        }
        st_cache_protect(x->cache, pool, first + experts[got], 1);
    }
    for (int i = 0; i < n; i++) {
        if (slots[i] >= 0) {
            st_cache_unpin(x->cache, pool, slots[i]);
        }
    }
    return got;
}

void st_experts_foresee(struct st_experts *x, int group, const int *experts, int n)
{
    struct ahead *a = &x->ahead[group];
    a->n = a->next_load = 0;
    if (x->n_pools < x->weights->n_groups) {
        return; /* one pool for all: what is foreseen would evict what is needed first */
    }
    n = n < MAX_AHEAD ? n : MAX_AHEAD;
    a->n = reserve_ahead(x, group, experts, n);
    memcpy(a->experts, experts, (size_t)a->n * sizeof *experts);
    pump_ahead(x, group);
}

/* An expert of a pass that begins is in the slot, or on its way there. Returns whether it is there
 * because it was foreseen for this pass. */
static bool take_ahead(struct st_experts *x, int group, int slot, uint32_t parts)
{
    int pool = x->pool_of[group];
    uint32_t ahead = x->pools[pool].ahead[slot] & parts;
    for (int p = 0; p < x->weights->groups[group].n_parts; p++) {
        int load = *load_of(x, pool, slot, p);
        if (load >= 0 && (parts & 1u << p)) {
            st_io_promote(x->io, &x->loads[load].request);
        }
        if (ahead & 1u << p) {
            int weight = x->weights->groups[group].weight[p];
            x->stats.prefetch_used_bytes += x->weights->weights[weight].file_bytes;
        }
    }
    x->pools[pool].ahead[slot] &= ~parts;
    return ahead != 0;
}

/* The pass has begun: reads for it that it turned out not to need are not made any more. */
static void cancel_ahead(struct st_experts *x, int group)
{
    x->ahead[group].n = 0;
    for (int k = x->n_open - 1; k >= 0; k--) {
        struct st_io_request *request = &x->loads[x->order[k]].request;
        if (x->loads[x->order[k]].pool == x->pool_of[group] &&
            request->priority == ST_IO_PREFETCH && st_io_cancel(x->io, request)) {
            x->stats.prefetch_bytes -= request->length;
            give_up(x, k);
        }
    }
}

/* --- Passes, again ------------------------------------------------------------------------- */

enum strata_status st_experts_begin(struct st_experts *x, struct st_pass *pass, int group,
    const int *experts, const int *uses, int n, uint32_t parts, struct strata_error *err)
{
    int pool = x->pool_of[group], first = x->first_id[group];
    ST_ASSERT(n > 0 && n <= x->pools[pool].n_slots);
    (void)err;
    reserve_pass(pass, n);
    pass->group = group;
    pass->parts = parts;
    pass->n = n;
    pass->next_load = 0;
    pass->n_misses = 0;
    if (x->n_passes++ == 0) {
        x->failed = false; /* a failure that nobody waited for: those parts are read again */
    }
    if (uses) {
        st_cache_step(x->cache, pool);
    }
    collect(x);                   /* from here on, what fails was asked for */
    for (int i = 0; i < n; i++) { /* hits first: a miss must not evict one of them */
        int id = first + experts[i];
        pass->experts[i] = experts[i];
        pass->slots[i] = st_cache_find(x->cache, pool, id);
        bool hit = st_experts_has(x, group, experts[i], parts);
        if (pass->slots[i] >= 0) {
            st_cache_pin(x->cache, pool, pass->slots[i]);
            hit = !take_ahead(x, group, pass->slots[i], parts) && hit;
        }
        pass->n_misses += !hit;
        if (uses) {
            st_cache_touch(x->cache, pool, id);
            x->stats.expert_requests += (uint64_t)uses[i];
            x->stats.expert_hits += hit ? (uint64_t)uses[i] : 0;
        }
    }
    cancel_ahead(x, group);
    for (int i = 0; i < n; i++) {
        if (pass->slots[i] < 0) {
            if (uses &&
                n <= x->weights->catalog->n_expert_used) { /* prompts say little of a layer */
                trade(x, pool);
            }
            pass->slots[i] = acquire(x, pool, first + experts[i]);
            st_cache_pin(x->cache, pool, pass->slots[i]);
        }
    }
    x->pools[pool].n_passes++;
    pump(x, pass);
    return STRATA_OK;
}

bool st_experts_ready(struct st_experts *x, const struct st_pass *pass, int part)
{
    int pool = x->pool_of[pass->group];
    for (int i = 0; i < pass->n; i++) {
        if (!(st_cache_parts(x->cache, pool, pass->slots[i]) & 1u << part)) {
            return false;
        }
    }
    return true;
}

/* Whether all of the part that the pass still misses was asked for before it was needed. */
static bool all_ahead(struct st_experts *x, const struct st_pass *pass, int part)
{
    int pool = x->pool_of[pass->group];
    for (int i = 0; i < pass->n; i++) {
        int load = *load_of(x, pool, pass->slots[i], part);
        if (load >= 0 ? !x->loads[load].ahead : missing(x, pool, pass->slots[i], part)) {
            return false;
        }
    }
    return true;
}

enum strata_status st_experts_wait(
    struct st_experts *x, struct st_pass *pass, int part, struct strata_error *err)
{
    ST_ASSERT(pass->parts & 1u << part);
    for (;;) {
        st_io_poll(x->io);
        collect(x);
        if (x->failed) {
            drain(x);
            x->failed = false;
            if (err) {
                *err = x->error;
            }
            return x->error.status;
        }
        if (st_experts_ready(x, pass, part)) {
            return STRATA_OK;
        }
        pump(x, pass);
        pump_all_ahead(x, pass->group);
        if (settle(x, part) == 0 && settle(x, -1) == 0) {
            ST_ASSERT(x->n_open > 0);
            block(x, all_ahead(x, pass, part));
        }
    }
}

void st_experts_end(struct st_experts *x, struct st_pass *pass)
{
    int pool = x->pool_of[pass->group];
    for (int i = 0; i < pass->n; i++) {
        st_cache_unpin(x->cache, pool, pass->slots[i]);
    }
    pass->group = -1;
    pass->n = 0;
    x->n_passes--;
    x->pools[pool].n_passes--;
}

void *st_experts_slots(const struct st_experts *x, int weight, uint64_t *stride, int *n_slots)
{
    const struct st_weight *w = &x->weights->weights[weight];
    const struct st_pool *pool = &x->pools[x->pool_of[w->group]];
    *stride = pool->stride[w->part];
    *n_slots = pool->n_slots;
    return pool->memory[w->part] + w->delta;
}

bool st_experts_has(const struct st_experts *x, int group, int expert, uint32_t parts)
{
    int pool = x->pool_of[group];
    int slot = st_cache_find(x->cache, pool, x->first_id[group] + expert);
    return slot >= 0 && (st_cache_parts(x->cache, pool, slot) & parts) == parts;
}

/* --- For batches --------------------------------------------------------------------------- */

struct st_experts_cache st_experts_cache(const struct st_experts *x, int group)
{
    bool shared = x->n_pools < x->weights->n_groups;
    return (struct st_experts_cache){x->cache, x->pool_of[group], x->first_id[group], shared};
}

void st_experts_hold(struct st_experts *x, int group)
{
    x->pools[x->pool_of[group]].n_passes++;
}

void st_experts_release(struct st_experts *x, int group)
{
    x->pools[x->pool_of[group]].n_passes--;
}

void st_experts_count(struct st_experts *x, uint64_t requests, uint64_t hits)
{
    x->stats.expert_requests += requests;
    x->stats.expert_hits += hits;
}

char *st_experts_staging(struct st_experts *x, uint64_t *bytes)
{
    for (int i = 0; i < x->n_stages; i++) {
        if (x->stage_busy[i]) {
            drain(x);
            break;
        }
    }
    *bytes = x->staging_bytes;
    return x->staging;
}

/* --- More and less memory ------------------------------------------------------------------ */

/* Memory of all slots, if every pool has as many as `count` says. */
static uint64_t sum_slots(const struct st_experts *x, int (*count)(const struct st_pool *pool))
{
    uint64_t bytes = 0;
    for (int i = 0; i < x->n_pools; i++) {
        bytes += (uint64_t)count(&x->pools[i]) * st_pool_slot_bytes(&x->pools[i]);
    }
    return bytes;
}

static int slots_now(const struct st_pool *pool)
{
    return pool->n_slots;
}

static int slots_planned(const struct st_pool *pool)
{
    return pool->max_slots;
}

uint64_t st_experts_held(const struct st_experts *x)
{
    return sum_slots(x, slots_now);
}

uint64_t st_experts_most(const struct st_experts *x)
{
    return sum_slots(x, slots_planned);
}

uint64_t st_experts_least(const struct st_experts *x)
{
    return sum_slots(x, st_pool_fewest);
}

int st_experts_n_slots(const struct st_experts *x)
{
    int n = 0;
    for (int i = 0; i < x->n_pools; i++) {
        n += x->pools[i].n_slots;
    }
    return n;
}

/* Of what the pools can give back, the share that they keep. */
static double share_of(const struct st_experts *x, uint64_t bytes)
{
    uint64_t most = st_experts_most(x), least = st_experts_least(x);
    if (bytes >= most) {
        return 1;
    }
    return bytes <= least ? 0 : (double)(bytes - least) / (double)(most - least);
}

void st_experts_resize(struct st_experts *x, uint64_t bytes)
{
    double share = share_of(x, bytes);
    for (int growing = 0; growing < 2; growing++) { /* what is given back comes first */
        for (int i = 0; i < x->n_pools; i++) {
            int n = st_pool_share(&x->pools[i], share);
            if (n != x->pools[i].n_slots && (n > x->pools[i].n_slots) == (growing == 1)) {
                st_pool_resize(&x->pools[i], x->cache, i, n);
            }
        }
    }
}

bool st_experts_settled(const struct st_experts *x, uint64_t bytes)
{
    double share = share_of(x, bytes);
    for (int i = 0; i < x->n_pools; i++) {
        if (st_pool_share(&x->pools[i], share) != x->pools[i].n_slots) {
            return false;
        }
    }
    return true;
}

void st_experts_stats(const struct st_experts *x, struct st_stream_stats *out)
{
    out->demand_bytes += x->stats.demand_bytes;
    out->prefetch_bytes += x->stats.prefetch_bytes;
    out->prefetch_used_bytes += x->stats.prefetch_used_bytes;
    out->expert_bytes = x->stats.demand_bytes + x->stats.prefetch_used_bytes;
    out->foreseen_bytes = x->stats.prefetch_used_bytes;
    out->expert_requests += x->stats.expert_requests;
    out->expert_hits += x->stats.expert_hits;
    out->stall_ns += x->stats.stall_ns;
    out->prefetch_stall_ns += x->stats.prefetch_stall_ns;
    out->memory_bytes += x->stats.memory_bytes;
}
