/*
 * replay.c - steps, layers and parts of a replay.
 *
 *      step    schedule all reads --> layer 0 --> layer 1 --> ... --> output
 *      layer   streamed dense weights --> half of the compute time --> experts
 *      experts together: parts but down, then down; or in sets: every set of every part
 *      on a device: missing experts read and uploaded, then all computed; or set by set
 *
 * The virtual disk's clock advances when the stream waits, and by compute() for compute time.
 */
#include "sim/replay.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "stream/levels.h"

struct replay {
    struct fb_stream *stream;
    const struct fb_weights *weights;
    struct fb_io_virtual *disk;
    const struct fb_trace *trace;
    struct fb_sim_report *report;
    double layer_ns; /* compute time of one token in one layer */
    double owed_ns;  /* below 1: the remainder of rounding */
    int lookahead;

    int *dense; /* streamed dense weights in the order of their use */
    int n_dense, next_dense;

    /* Of the current layer: */
    int *seen;   /* [n_expert] */
    int *needed; /* distinct experts, ascending */
    int *uses;   /* tokens that need each of them */
    int n_needed;
    int *routes; /* [tokens][top_k] experts of the step's tokens */
    struct fb_lease lease;

    struct fb_expert_use *scheduled; /* [n_weights] matrices that a step uses */

    struct fb_levels levels; /* slots of a device; tier NULL: there is none */
    double upload_bytes_per_s;
    uint64_t upload_bytes, back_bytes;
};

struct fb_sim_step fb_sim_step(const struct fb_trace *trace, int first)
{
    struct fb_sim_step step = {.first = first, .n = 1, .prefill = trace->prefill[first]};
    while (
        first + step.n < trace->n_tokens && trace->batch[first + step.n] == trace->batch[first]) {
        step.n++;
    }
    return step;
}

void fb_sim_survey(
    const struct fb_trace *trace, const struct fb_sim_step *step, int layer, int *uses)
{
    memset(uses, 0, (size_t)trace->n_expert * sizeof *uses);
    for (int t = step->first; t < step->first + step->n; t++) {
        const uint16_t *route = fb_trace_route(trace, t, layer);
        for (int k = 0; route && k < trace->top_k; k++) {
            uses[route[k]]++;
        }
    }
}

/* --- Time and dense weights ------------------------------------------------------------------- */

static void compute(struct replay *r, double ns)
{
    r->owed_ns += ns;
    uint64_t whole = (uint64_t)r->owed_ns;
    r->disk->now_ns += whole;
    r->owed_ns -= (double)whole;
    fb_stream_poll(r->stream);
}

static int by_layer(const void *a, const void *b)
{
    const int *x = a, *y = b;
    return x[0] != y[0] ? (x[0] > y[0]) - (x[0] < y[0]) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* Streamed dense weights by layer; those of no layer (the output) come last. */
static void order_dense(struct replay *r)
{
    const struct fb_weights *ws = r->weights;
    int(*order)[2] = fb_xcalloc((size_t)ws->n_weights, sizeof *order);
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group < 0 && !fb_stream_is_resident(r->stream, i)) {
            int layer = ws->catalog->tensors[ws->weights[i].tensor].layer;
            order[r->n_dense][0] = layer < 0 ? ws->catalog->n_layer : layer;
            order[r->n_dense++][1] = i;
        }
    }
    qsort(order, (size_t)r->n_dense, sizeof *order, by_layer);
    r->dense = fb_xcalloc((size_t)r->n_dense, sizeof *r->dense);
    for (int i = 0; i < r->n_dense; i++) {
        r->dense[i] = order[i][1];
    }
    free(order);
}

/* Acquires and releases the streamed weights of all layers up to this one. */
static enum forebay_status use_dense(struct replay *r, int layer, struct forebay_error *err)
{
    const struct fb_weights *ws = r->weights;
    enum forebay_status status = FOREBAY_OK;
    for (; r->next_dense < r->n_dense && status == FOREBAY_OK; r->next_dense++) {
        int weight = r->dense[r->next_dense];
        int at = ws->catalog->tensors[ws->weights[weight].tensor].layer;
        if ((at < 0 ? ws->catalog->n_layer : at) > layer) {
            break;
        }
        const void *bytes; /* never touched */
        status = fb_stream_dense_acquire(r->stream, weight, &bytes, err);
        if (status == FOREBAY_OK) {
            fb_stream_dense_release(r->stream);
        }
    }
    return status;
}

/* --- Experts ---------------------------------------------------------------------------------- */

/* Lists the distinct experts by number. */
static void list_needed(struct replay *r)
{
    r->n_needed = 0;
    for (int e = 0; e < r->trace->n_expert; e++) {
        if (r->seen[e]) {
            r->uses[r->n_needed] = r->seen[e];
            r->needed[r->n_needed++] = e;
        }
    }
}

/* The part at a position in the order in which the graph uses them: down comes last. */
static int part_at(const struct replay *r, int group, int position)
{
    const struct fb_group *g = &r->weights->groups[group];
    int order[FB_MAX_PARTS], n = 0;
    for (int last = 0; last <= 1; last++) {
        for (int role = FB_ROLE_EXPERT_GATE; role <= FB_ROLE_EXPERT_GATE_UP; role++) {
            for (int p = 0; p < g->n_parts && (role == FB_ROLE_EXPERT_DOWN) == last; p++) {
                int tensor = r->weights->weights[g->weight[p]].tensor;
                if (r->weights->catalog->tensors[tensor].role == (enum fb_role)role) {
                    order[n++] = p;
                }
            }
        }
    }
    FB_ASSERT(n == g->n_parts);
    return order[position];
}

/* Lists the experts of each token of the step that the layer computes. Returns the number of these
 * tokens. */
static int list_routes(struct replay *r, const struct fb_sim_step *step, int group)
{
    int n = 0;
    for (int t = step->first; t < step->first + step->n; t++) {
        const uint16_t *route = fb_trace_route(r->trace, t, group);
        for (int k = 0; route && k < r->trace->top_k; k++) {
            r->routes[n * r->trace->top_k + k] = route[k];
        }
        n += route != NULL;
    }
    return n;
}

/* Prefetches a generated token's experts of the next layers, with guesses that are all right. */
static void prefetch(struct replay *r, const struct fb_sim_step *step, int group)
{
    int n_groups = r->weights->n_groups;
    for (int g = group + 1; step->n == 1 && g < n_groups && g - group <= r->lookahead; g++) {
        int tokens = list_routes(r, step, g);
        fb_stream_prefetch(r->stream, g, r->routes, tokens * r->trace->top_k);
    }
}

/* Computes parts first .. first+n-1, which do not depend on each other: the experts that are
 * present, then the others. */
static enum forebay_status compute_parts(
    struct replay *r, int group, int first, int n, double part_ns, struct forebay_error *err)
{
    double left[FB_MAX_PARTS];
    enum forebay_status status = FOREBAY_OK;
    for (int i = 0; i < n; i++) {
        uint32_t part = 1u << part_at(r, group, first + i);
        int present = 0;
        for (int k = 0; k < r->lease.n; k++) {
            present += fb_stream_has(r->stream, group, r->lease.experts[k], part);
        }
        double done = part_ns * present / r->lease.n;
        compute(r, done);
        left[i] = part_ns - done;
    }
    for (int i = 0; i < n && status == FOREBAY_OK; i++) {
        status = fb_stream_lease_wait(r->stream, &r->lease, part_at(r, group, first + i), err);
        compute(r, left[i]);
    }
    return status;
}

static enum forebay_status together(struct replay *r, const struct fb_sim_step *step, int group,
    double ns, struct forebay_error *err)
{
    const struct fb_group *g = &r->weights->groups[group];
    int down = g->n_parts > 1; /* the last part needs the results of the others */
    prefetch(r, step, group);
    enum forebay_status status =
        compute_parts(r, group, 0, g->n_parts - down, ns / g->n_parts, err);
    if (status == FOREBAY_OK) {
        status = compute_parts(r, group, g->n_parts - down, down, ns / g->n_parts, err);
    }
    fb_stream_lease_end(r->stream, &r->lease);
    return status;
}

static enum forebay_status in_sets(
    struct replay *r, int group, double ns, struct forebay_error *err)
{
    const struct fb_group *g = &r->weights->groups[group];
    enum forebay_status status = FOREBAY_OK;
    for (int i = 0; i < g->n_parts && status == FOREBAY_OK; i++) {
        struct fb_set set = {.n = 1};
        while (set.n > 0 && status == FOREBAY_OK) {
            status = fb_stream_sets_next(r->stream, g->weight[part_at(r, group, i)], &set, err);
            compute(r, ns / g->n_parts * set.n / r->n_needed);
        }
    }
    fb_stream_sets_end(r->stream);
    return status;
}

/* --- Experts on a device ---------------------------------------------------------------------- */

/* Copies n units up or down. Reads that were issued before go on meanwhile. */
static void copy_units(struct replay *r, uint64_t *sum, int weight, int n)
{
    uint64_t bytes = (uint64_t)n * r->weights->weights[weight].unit_bytes;
    *sum += bytes;
    compute(r, (double)bytes / r->upload_bytes_per_s * 1e9);
}

static void copy_up(void *user, int weight, int slot, const void *unit)
{
    struct replay *r = user;
    (void)slot;
    (void)unit;
    copy_units(r, &r->upload_bytes, weight, 1);
}

static void copy_down(void *user, int weight, int slot, void *unit)
{
    struct replay *r = user;
    (void)slot;
    (void)unit;
    copy_units(r, &r->back_bytes, weight, 1);
}

/* More experts than slots: first those in slots, then the others, which pass by. */
static enum forebay_status device_in_sets(struct replay *r, int group,
    const struct fb_routes *routes, double ns, struct forebay_error *err)
{
    const struct fb_group *g = &r->weights->groups[group];
    enum forebay_status status = FOREBAY_OK;
    int n_missing = r->levels.n_missing;
    if (n_missing > 0) {
        fb_levels_ask(&r->levels, g->weight[part_at(r, group, 0)], routes);
    }
    for (int i = 0; i < g->n_parts && status == FOREBAY_OK; i++) {
        struct fb_set set = {.n = n_missing};
        int weight = g->weight[part_at(r, group, i)];
        double each_ns = ns / g->n_parts / r->n_needed;
        compute(r, each_ns * (r->n_needed - n_missing));
        while (set.n > 0 && status == FOREBAY_OK) {
            status = fb_levels_next(&r->levels, weight, &set, err);
            for (int k = 0; k < set.n; k++) { /* those admitted have been copied up already */
                bool admitted = r->levels.admitted[set.experts[k]] >= 0;
                copy_units(r, &r->upload_bytes, weight, admitted ? 0 : 1);
            }
            compute(r, each_ns * set.n);
        }
    }
    return status;
}

static enum forebay_status on_device(struct replay *r, int group, const struct fb_routes *routes,
    double ns, struct forebay_error *err)
{
    enum forebay_status status;
    fb_levels_open(&r->levels, group, routes);
    if (r->levels.fits) {
        status = fb_levels_fill(&r->levels, err);
        compute(r, ns);
    } else {
        status = device_in_sets(r, group, routes, ns, err);
    }
    fb_levels_close(&r->levels);
    return status;
}

/* --- Layers ----------------------------------------------------------------------------------- */

static enum forebay_status experts(struct replay *r, const struct fb_sim_step *step, int group,
    double ns, struct forebay_error *err)
{
    fb_sim_survey(r->trace, step, group, r->seen);
    list_needed(r);
    int tokens = list_routes(r, step, group);
    if (tokens == 0) {
        compute(r, ns); /* no token needs logits: the last layer has no rows */
        return FOREBAY_OK;
    }
    struct fb_routes routes = {
        .experts = r->routes,
        .tokens = tokens,
        .picks = r->trace->top_k,
        .needed = r->needed,
        .uses = r->uses,
        .n_needed = r->n_needed,
    };
    if (r->levels.tier) {
        return on_device(r, group, &routes, ns, err);
    }
    int weight = r->weights->groups[group].weight[part_at(r, group, 0)];
    return fb_stream_layer_begin(r->stream, &r->lease, weight, &routes)
               ? together(r, step, group, ns, err)
               : in_sets(r, group, ns, err);
}

/* Announces the expert matrices of a step in the order of their use. */
static void schedule_experts(struct replay *r, const struct fb_sim_step *step)
{
    int n = 0;
    for (int g = 0; g < r->weights->n_groups; g++) {
        int tokens = list_routes(r, step, g);
        for (int i = 0; i < r->weights->groups[g].n_parts; i++) {
            r->scheduled[n++] = (struct fb_expert_use){
                r->weights->groups[g].weight[part_at(r, g, i)], tokens, r->trace->top_k};
        }
    }
    fb_stream_schedule_experts(r->stream, r->scheduled, n);
}

/* --- Steps ------------------------------------------------------------------------------------ */

static struct fb_tier_stats device_stats(const struct replay *r)
{
    return r->levels.tier ? fb_tier_stats(r->levels.tier) : (struct fb_tier_stats){0};
}

/* Runs one step through one layer; adds the figures of its experts to *f and, if they count, to the
 * layer's own. */
static enum forebay_status layer(struct replay *r, const struct fb_sim_step *step, int group,
    struct fb_sim_figures *f, struct forebay_error *err)
{
    double ns = r->layer_ns * step->n;
    enum forebay_status status = use_dense(r, r->weights->groups[group].layer, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    compute(r, ns / 2);
    struct fb_stream_stats before, after;
    struct fb_tier_stats above = device_stats(r);
    uint64_t uploaded = r->upload_bytes, back = r->back_bytes;
    fb_stream_stats(r->stream, &before);
    status = experts(r, step, group, ns / 2, err);
    fb_stream_stats(r->stream, &after);
    above.requests = device_stats(r).requests - above.requests;
    above.hits = device_stats(r).hits - above.hits;
    f->device_requests += above.requests;
    f->device_hits += above.hits;
    f->upload_bytes += r->upload_bytes - uploaded;
    f->back_bytes += r->back_bytes - back;
    f->requests += after.expert_requests - before.expert_requests;
    f->hits += after.expert_hits - before.expert_hits;
    f->expert_bytes += after.expert_bytes - before.expert_bytes;
    if (f == &r->report->decode) {
        struct fb_sim_layer *l = &r->report->layers[group];
        l->requests += after.expert_requests - before.expert_requests;
        l->hits += after.expert_hits - before.expert_hits;
        l->device_requests += above.requests;
        l->device_hits += above.hits;
    }
    return status;
}

static uint64_t dense_bytes(const struct fb_stream_stats *stats)
{
    return stats->demand_bytes + stats->prefetch_used_bytes - stats->expert_bytes;
}

static enum forebay_status run_step(struct replay *r, const struct fb_sim_step *step,
    struct fb_sim_figures *f, struct forebay_error *err)
{
    struct fb_stream_stats before, after;
    uint64_t begin_ns = r->disk->now_ns;
    enum forebay_status status = FOREBAY_OK;
    fb_stream_stats(r->stream, &before);
    fb_stream_schedule_dense(r->stream, r->dense, r->n_dense);
    schedule_experts(r, step);
    r->next_dense = 0;
    for (int g = 0; g < r->weights->n_groups && status == FOREBAY_OK; g++) {
        status = layer(r, step, g, f, err);
    }
    if (status == FOREBAY_OK) {
        status = use_dense(r, r->weights->catalog->n_layer, err);
    }
    fb_stream_stats(r->stream, &after);
    f->tokens += (uint64_t)step->n;
    f->dense_bytes += dense_bytes(&after) - dense_bytes(&before);
    f->seconds += (double)(r->disk->now_ns - begin_ns) * 1e-9;
    f->stall_s += (double)(after.stall_ns - before.stall_ns) * 1e-9;
    f->copy_s = (double)(f->upload_bytes + f->back_bytes) / r->upload_bytes_per_s;
    return status;
}

/* The tier of a device with the slots that the report says; NULL if there is none. */
static struct fb_tier *make_tier(const struct fb_weights *ws, const struct fb_sim_report *report)
{
    int *numbers = fb_xcalloc(3 * (size_t)ws->n_groups, sizeof *numbers);
    int *n_experts = numbers, *n_parts = numbers + ws->n_groups, *n_slots = n_parts + ws->n_groups;
    for (int g = 0; g < ws->n_groups; g++) {
        n_experts[g] = ws->groups[g].n_expert;
        n_parts[g] = ws->groups[g].n_parts;
        n_slots[g] = report->layers[g].device_slots;
    }
    struct fb_tier *tier =
        report->n_device_slots > 0 ? fb_tier_new(ws->n_groups, n_experts, n_parts, n_slots) : NULL;
    free(numbers);
    return tier;
}

static int longest_step(const struct fb_trace *trace)
{
    struct fb_sim_step step;
    int n = 1;
    for (int t = 0; t < trace->n_tokens; t += step.n) {
        step = fb_sim_step(trace, t);
        n = step.n > n ? step.n : n;
    }
    return n;
}

enum forebay_status fb_sim_replay(struct fb_stream *stream, const struct fb_weights *weights,
    struct fb_io_virtual *disk, const struct fb_trace *trace, const struct fb_sim_options *options,
    int warm_up, struct fb_sim_report *out, struct forebay_error *err)
{
    size_t n = (size_t)trace->n_expert;
    struct replay r = {.stream = stream,
        .weights = weights,
        .disk = disk,
        .trace = trace,
        .report = out,
        .layer_ns = options->compute_s * 1e9 / weights->n_groups,
        .lookahead = options->lookahead,
        .levels = {.weights = weights, .stream = stream, .tier = make_tier(weights, out)},
        .upload_bytes_per_s = options->upload_bytes_per_s};
    r.seen = fb_xcalloc(n, sizeof *r.seen);
    r.needed = fb_xcalloc(n, sizeof *r.needed);
    r.uses = fb_xcalloc(n, sizeof *r.uses);
    r.levels.device = (struct fb_levels_device){.up = copy_up, .down = copy_down, .user = &r};
    r.routes = fb_xcalloc((size_t)longest_step(trace) * (size_t)trace->top_k, sizeof *r.routes);
    r.scheduled = fb_xcalloc((size_t)weights->n_weights, sizeof *r.scheduled);
    r.lease.group = -1;
    order_dense(&r);
    enum forebay_status status = FOREBAY_OK;
    struct fb_sim_step step;
    for (int t = 0; t < trace->n_tokens && status == FOREBAY_OK; t += step.n) {
        step = fb_sim_step(trace, t);
        struct fb_sim_figures *f = step.prefill                           ? &out->prefill
                                   : out->warm.tokens < (uint64_t)warm_up ? &out->warm
                                                                          : &out->decode;
        status = run_step(&r, &step, f, err);
    }
    fb_lease_clear(&r.lease);
    free(r.seen);
    free(r.needed);
    free(r.uses);
    fb_levels_release(&r.levels);
    fb_tier_free(r.levels.tier);
    free(r.routes);
    free(r.scheduled);
    free(r.dense);
    return status;
}
