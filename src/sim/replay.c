#include "sim/replay.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct replay {
    struct st_stream *stream;
    const struct st_weights *weights;
    struct st_io_virtual *disk;
    const struct st_trace *trace;
    struct st_sim_report *report;
    double layer_ns; /* compute time of one token in one layer */
    double owed_ns;  /* below one: what rounding left */

    int *dense; /* streamed dense weights in the order of their use */
    int n_dense, next_dense;

    /* Of the layer at hand. */
    int *seen;   /* [n_expert] */
    int *needed; /* distinct experts, in the order in which they are taken */
    int *uses;   /* tokens that need each of them */
    int n_needed;
    bool counted;
    struct st_pass pass[2];
};

struct step st_sim_step(const struct st_trace *trace, int first)
{
    struct step step = {.first = first, .n = 1, .prefill = trace->prefill[first]};
    while (
        first + step.n < trace->n_tokens && trace->batch[first + step.n] == trace->batch[first]) {
        step.n++;
    }
    return step;
}

void st_sim_survey(const struct st_trace *trace, const struct step *step, int layer, int *uses)
{
    memset(uses, 0, (size_t)trace->n_expert * sizeof *uses);
    for (int t = step->first; t < step->first + step->n; t++) {
        const uint16_t *route = st_trace_route(trace, t, layer);
        for (int k = 0; route && k < trace->top_k; k++) {
            uses[route[k]]++;
        }
    }
}

/* --- Time and dense weights --------------------------------------------------------------- */

static void compute(struct replay *r, double ns)
{
    r->owed_ns += ns;
    uint64_t whole = (uint64_t)r->owed_ns;
    r->disk->now_ns += whole;
    r->owed_ns -= (double)whole;
    st_stream_poll(r->stream);
}

static int by_layer(const void *a, const void *b)
{
    const int *x = a, *y = b;
    return x[0] != y[0] ? (x[0] > y[0]) - (x[0] < y[0]) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* Streamed dense weights by layer; those of no layer (the output) come last. */
static void order_dense(struct replay *r)
{
    const struct st_weights *ws = r->weights;
    int(*order)[2] = st_xcalloc((size_t)ws->n_weights, sizeof *order);
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group < 0 && !st_stream_is_resident(r->stream, i)) {
            int layer = ws->catalog->tensors[ws->weights[i].tensor].layer;
            order[r->n_dense][0] = layer < 0 ? ws->catalog->n_layer : layer;
            order[r->n_dense++][1] = i;
        }
    }
    qsort(order, (size_t)r->n_dense, sizeof *order, by_layer);
    r->dense = st_xcalloc((size_t)r->n_dense, sizeof *r->dense);
    for (int i = 0; i < r->n_dense; i++) {
        r->dense[i] = order[i][1];
    }
    free(order);
}

/* Takes the streamed weights of all layers up to this one. */
static enum strata_status take_dense(struct replay *r, int layer, struct strata_error *err)
{
    const struct st_weights *ws = r->weights;
    enum strata_status status = STRATA_OK;
    for (; r->next_dense < r->n_dense && !status; r->next_dense++) {
        int weight = r->dense[r->next_dense];
        int at = ws->catalog->tensors[ws->weights[weight].tensor].layer;
        if ((at < 0 ? ws->catalog->n_layer : at) > layer) {
            break;
        }
        const void *bytes; /* never touched */
        status = st_stream_dense(r->stream, weight, &bytes, err);
        if (!status) {
            st_stream_dense_done(r->stream);
        }
    }
    return status;
}

/* --- Experts ------------------------------------------------------------------------------ */

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

/* The same for passes one after another: those that have `parts` in memory first, before others
 * could take their slots. */
static void order_needed(struct replay *r, int group, uint32_t parts)
{
    r->n_needed = 0;
    for (int present = 1; present >= 0; present--) {
        for (int e = 0; e < r->trace->n_expert; e++) {
            if (r->seen[e] && st_stream_has(r->stream, group, e, parts) == (present == 1)) {
                r->uses[r->n_needed] = r->seen[e];
                r->needed[r->n_needed++] = e;
            }
        }
    }
}

/* The order in which the graph uses the parts: down comes last. */
static int part_at(const struct replay *r, int group, int position)
{
    const struct st_group *g = &r->weights->groups[group];
    int order[ST_MAX_PARTS], n = 0;
    for (int last = 0; last <= 1; last++) {
        for (int role = ST_ROLE_EXPERT_GATE; role <= ST_ROLE_EXPERT_GATE_UP; role++) {
            for (int p = 0; p < g->n_parts && (role == ST_ROLE_EXPERT_DOWN) == last; p++) {
                int tensor = r->weights->weights[g->weight[p]].tensor;
                if (r->weights->catalog->tensors[tensor].role == (enum st_role)role) {
                    order[n++] = p;
                }
            }
        }
    }
    ST_ASSERT(n == g->n_parts);
    return order[position];
}

static enum strata_status together(struct replay *r, int group, double ns, struct strata_error *err)
{
    int n_parts = r->weights->groups[group].n_parts;
    struct st_pass *pass = &r->pass[0];
    enum strata_status status = st_stream_begin(
        r->stream, pass, group, r->needed, r->uses, r->n_needed, (1u << n_parts) - 1, err);
    for (int i = 0; i < n_parts && !status; i++) {
        status = st_stream_wait(r->stream, pass, part_at(r, group, i), err);
        compute(r, ns / n_parts);
    }
    st_stream_end(r->stream, pass);
    return status;
}

/* One part of all experts needed, in rounds. */
static enum strata_status in_rounds(
    struct replay *r, int group, int part, double ns, struct strata_error *err)
{
    int per_round = st_stream_pass_limit(r->stream, group, false);
    int ahead = per_round < st_stream_pass_limit(r->stream, group, true);
    enum strata_status status = STRATA_OK;
    order_needed(r, group, 1u << part);
    int n_rounds = (r->n_needed + per_round - 1) / per_round, begun = 0;
    for (int round = 0; round < n_rounds && !status; round++) {
        for (; begun < n_rounds && begun <= round + ahead && !status; begun++) {
            int first = begun * per_round;
            int n = r->n_needed - first < per_round ? r->n_needed - first : per_round;
            status = st_stream_begin(r->stream, &r->pass[begun % 2], group, r->needed + first,
                r->counted ? NULL : r->uses + first, n, 1u << part, err);
        }
        if (!status) {
            status = st_stream_wait(r->stream, &r->pass[round % 2], part, err);
        }
        compute(r, ns / n_rounds);
        st_stream_end(r->stream, &r->pass[round % 2]);
    }
    r->counted = true;
    return status;
}

static enum strata_status experts(
    struct replay *r, const struct step *step, int group, double ns, struct strata_error *err)
{
    const struct st_group *g = &r->weights->groups[group];
    enum strata_status status = STRATA_OK;
    st_sim_survey(r->trace, step, group, r->seen);
    list_needed(r);
    r->counted = false;
    if (r->n_needed == 0) {
        compute(r, ns); /* no token's logits are wanted: the last layer has no rows */
        return STRATA_OK;
    }
    if (r->n_needed <= st_stream_pass_limit(r->stream, group, true)) {
        return together(r, group, ns, err);
    }
    for (int i = 0; i < g->n_parts && !status; i++) {
        status = in_rounds(r, group, part_at(r, group, i), ns / g->n_parts, err);
    }
    return status;
}

/* --- Steps -------------------------------------------------------------------------------- */

/* One step through one layer; what its experts came to is added to *f and, if it counts, to the
 * layer's own figures. */
static enum strata_status layer(struct replay *r, const struct step *step, int group,
    struct st_sim_figures *f, struct strata_error *err)
{
    double ns = r->layer_ns * step->n;
    enum strata_status status = take_dense(r, r->weights->groups[group].layer, err);
    if (status) {
        return status;
    }
    compute(r, ns / 2);
    struct st_stream_stats before, after;
    st_stream_stats(r->stream, &before);
    status = experts(r, step, group, ns / 2, err);
    st_stream_stats(r->stream, &after);
    f->requests += after.expert_requests - before.expert_requests;
    f->hits += after.expert_hits - before.expert_hits;
    f->expert_bytes += after.demand_bytes - before.demand_bytes; /* the ring rested meanwhile */
    if (f == &r->report->decode) {
        struct st_sim_layer *l = &r->report->layers[group];
        l->requests += after.expert_requests - before.expert_requests;
        l->hits += after.expert_hits - before.expert_hits;
    }
    return status;
}

static uint64_t all_bytes(const struct st_stream_stats *stats)
{
    return stats->demand_bytes + stats->prefetch_bytes;
}

static enum strata_status run_step(
    struct replay *r, const struct step *step, struct st_sim_figures *f, struct strata_error *err)
{
    struct st_stream_stats before, after;
    uint64_t begin_ns = r->disk->now_ns, expert_bytes = f->expert_bytes;
    enum strata_status status = STRATA_OK;
    st_stream_stats(r->stream, &before);
    st_stream_expect(r->stream, r->dense, r->n_dense);
    r->next_dense = 0;
    for (int g = 0; g < r->weights->n_groups && !status; g++) {
        status = layer(r, step, g, f, err);
    }
    if (!status) {
        status = take_dense(r, r->weights->catalog->n_layer, err);
    }
    st_stream_stats(r->stream, &after);
    f->tokens += (uint64_t)step->n;
    f->dense_bytes += all_bytes(&after) - all_bytes(&before) - (f->expert_bytes - expert_bytes);
    f->seconds += (double)(r->disk->now_ns - begin_ns) * 1e-9;
    f->stall_s += (double)(after.stall_ns - before.stall_ns) * 1e-9;
    return status;
}

enum strata_status st_sim_replay(struct st_stream *stream, const struct st_weights *weights,
    struct st_io_virtual *disk, const struct st_trace *trace, double compute_s, int warm_up,
    struct st_sim_report *out, struct strata_error *err)
{
    size_t n = (size_t)trace->n_expert;
    struct replay r = {.stream = stream,
        .weights = weights,
        .disk = disk,
        .trace = trace,
        .report = out,
        .layer_ns = compute_s * 1e9 / weights->n_groups};
    r.seen = st_xcalloc(n, sizeof *r.seen);
    r.needed = st_xcalloc(n, sizeof *r.needed);
    r.uses = st_xcalloc(n, sizeof *r.uses);
    r.pass[0].group = r.pass[1].group = -1;
    order_dense(&r);
    enum strata_status status = STRATA_OK;
    struct step step;
    for (int t = 0; t < trace->n_tokens && !status; t += step.n) {
        step = st_sim_step(trace, t);
        struct st_sim_figures *f = step.prefill                           ? &out->prefill
                                   : out->warm.tokens < (uint64_t)warm_up ? &out->warm
                                                                          : &out->decode;
        status = run_step(&r, &step, f, err);
    }
    st_pass_release(&r.pass[0]);
    st_pass_release(&r.pass[1]);
    free(r.seen);
    free(r.needed);
    free(r.uses);
    free(r.dense);
    return status;
}
