/*
 * gpu_walk.c - see gpu_walk.h. Nodes [from, i) are those not handed to the GPU yet.
 *
 *      ... router | gate up act down ... router | gate ...
 *      [from ..... i)                               the first expert node of a layer: these are
 *                 |                                 computed, and the GPU is waited for
 *                 [from .................. i)       together: everything up to the next layer's
 *                 [g][u]  [d]                       in sets: expert nodes alone, several times
 *
 * The GPU is waited for before anything that it may be reading is overwritten: slots, transit, ids.
 */
#include "gpu/gpu_walk.h"

#include <stdlib.h>
#include <string.h>

#include "backend/memory_watch.h"
#include "base/error.h"
#include "gpu/gpu_dense.h"
#include "gpu/masked.h"
#include "stream/transit.h"

struct fb_gpu_walk {
    struct fb_gpu_exec exec;
    struct fb_masked *masked;
    struct fb_gpu_slots *slots; /* during a graph */
    bool computing;             /* a graph */
    struct fb_gpu_dense *dense;
    struct fb_expert_use *order;
    int cap_order;

    /* The open layer: */
    const struct ggml_tensor *ids; /* NULL: none */
    int group;
    struct fb_routing routing;
    char *raw_ids; /* as read back */
    size_t cap_raw_ids;
    struct ggml_tensor *slot_ids; /* together: on the GPU */
    bool in_sets;                 /* not together */
    struct fb_lease lease;        /* on the missing experts; in sets, if they fit into it */
    int *missing, *missing_uses, n_missing; /* not in slots of the GPU when the layer was opened */
    int *slot_of;                           /* by expert: slot of the GPU, or -1 */
    int *index_of;                          /* by expert: unit of the transit, or -1; for one set */
    int cap_experts;
};

struct fb_gpu_walk *fb_gpu_walk_new(ggml_backend_t gpu)
{
    struct fb_gpu_walk *w = fb_xcalloc(1, sizeof *w);
    fb_gpu_exec_init(&w->exec, gpu);
    w->masked = fb_masked_new();
    w->dense = fb_gpu_dense_new(gpu);
    w->lease.group = -1;
    w->group = -1;
    return w;
}

/* --- A layer --------------------------------------------------------------------------------- */

static void close_layer(struct fb_gpu_walk *w)
{
    struct fb_stream *stream = w->exec.binding->stream;
    if (w->lease.group >= 0) {
        fb_stream_lease_end(stream, &w->lease);
    }
    if (w->in_sets) {
        fb_stream_sets_end(stream);
    }
    if (w->group >= 0) {
        fb_tier_close(fb_gpu_slots_tier(w->slots), w->group);
    }
    w->in_sets = false;
    w->ids = NULL;
    w->group = -1;
}

/* Reads the ids of a group's layer back from the GPU. */
static enum ggml_status read_ids(struct fb_gpu_walk *w, const struct ggml_tensor *ids, int group)
{
    struct ggml_tensor here = *ids;
    size_t bytes = ggml_nbytes(ids);
    if (bytes > w->cap_raw_ids) {
        w->cap_raw_ids = bytes;
        w->raw_ids = fb_xrealloc(w->raw_ids, bytes);
    }
    ggml_backend_tensor_get(ids, w->raw_ids, 0, bytes);
    here.data = w->raw_ids;
    return fb_binding_read_routes(w->exec.binding, &w->routing, &here, group);
}

/* Opens the layer in the tier. *fits: every needed expert has a slot. */
static void look_up(struct fb_gpu_walk *w, int n_expert, bool *fits)
{
    const struct fb_routes *r = &w->routing.routes;
    if (n_expert > w->cap_experts) {
        size_t n = (size_t)n_expert;
        w->cap_experts = n_expert;
        w->missing = fb_xrealloc(w->missing, n * sizeof *w->missing);
        w->missing_uses = fb_xrealloc(w->missing_uses, n * sizeof *w->missing_uses);
        w->slot_of = fb_xrealloc(w->slot_of, n * sizeof *w->slot_of);
        w->index_of = fb_xrealloc(w->index_of, n * sizeof *w->index_of);
    }
    const struct fb_tier_need need = {r->needed, r->uses, r->n_needed};
    w->n_missing =
        fb_tier_open(fb_gpu_slots_tier(w->slots), w->group, &need, w->slot_of, w->missing, fits);
    for (int i = 0; i < w->n_missing; i++) {
        w->missing_uses[i] = w->routing.rows[w->missing[i]];
    }
}

/* Brings a part of the lease's experts from the stream's slots into slots of the GPU. */
static enum ggml_status fill_part(struct fb_gpu_walk *w, int part)
{
    struct fb_stream *stream = w->exec.binding->stream;
    struct forebay_error error;
    int weight = w->exec.binding->weights->groups[w->group].weight[part], n_slots;
    uint64_t stride;
    if (fb_stream_lease_wait(stream, &w->lease, part, &error) != FOREBAY_OK) {
        return fb_binding_fail(w->exec.binding, &error);
    }
    const char *base = fb_stream_slots(stream, weight, &stride, &n_slots);
    for (int i = 0; i < w->lease.n; i++) {
        fb_gpu_slots_fill(w->slots, weight, w->slot_of[w->lease.experts[i]],
            base + (uint64_t)w->lease.slots[i] * stride);
    }
    return GGML_STATUS_SUCCESS;
}

/* Fills the slots of the missing experts. */
static enum ggml_status fill_missing(struct fb_gpu_walk *w)
{
    struct fb_stream *stream = w->exec.binding->stream;
    const struct fb_group *group = &w->exec.binding->weights->groups[w->group];
    enum ggml_status status = GGML_STATUS_SUCCESS;
    int n = 0, most = fb_stream_lease_limit(stream, w->group);
    for (int i = 0; i < w->n_missing && status == GGML_STATUS_SUCCESS; i += n) {
        n = w->n_missing - i < most ? w->n_missing - i : most;
        fb_stream_lease_begin(stream, &w->lease, w->group, w->missing + i, w->missing_uses + i, n,
            fb_group_parts(group));
        for (int p = 0; p < group->n_parts && status == GGML_STATUS_SUCCESS; p++) {
            status = fill_part(w, p);
        }
        fb_stream_lease_end(stream, &w->lease);
    }
    return status;
}

/* Opens the layer in the stream, with the missing experts only. */
static void ask_stream(struct fb_gpu_walk *w, int weight)
{
    struct fb_routes routes = w->routing.routes;
    size_t n = (size_t)routes.tokens * (size_t)routes.picks;
    int *experts = fb_xmalloc(n * sizeof *experts);
    for (size_t i = 0; i < n; i++) {
        experts[i] = w->slot_of[routes.experts[i]] < 0 ? routes.experts[i] : -1;
    }
    routes.experts = experts;
    routes.needed = w->missing;
    routes.uses = w->missing_uses;
    routes.n_needed = w->n_missing;
    fb_stream_layer_begin(w->exec.binding->stream, &w->lease, weight, &routes);
    free(experts);
}

/* Computes the nodes before node i, and prepares the experts of its layer. */
static enum ggml_status open_layer(struct fb_gpu_walk *w, int i, int weight)
{
    struct fb_binding *b = w->exec.binding;
    const struct ggml_tensor *ids = ggml_graph_node(w->exec.graph, i)->src[2];
    int g = b->weights->weights[weight].group;
    bool fits = true; /* with no rows, too: no token's logits are wanted */
    enum ggml_status status = fb_gpu_exec_compute(&w->exec, i);
    ggml_backend_synchronize(w->exec.gpu);
    close_layer(w);
    ggml_reset(w->exec.ctx);
    if (status == GGML_STATUS_SUCCESS) {
        fb_stream_adapt(b->stream, true);
        status = read_ids(w, ids, g);
    }
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    w->ids = ids;
    w->group = g;
    w->n_missing = 0;
    if (w->routing.n_needed > 0) {
        look_up(w, b->weights->groups[g].n_expert, &fits);
    }
    w->in_sets = !fits;
    if (w->in_sets && w->n_missing > 0) {
        ask_stream(w, weight);
    }
    if (w->in_sets) {
        return GGML_STATUS_SUCCESS;
    }
    status = fill_missing(w);
    return status == GGML_STATUS_SUCCESS
               ? fb_gpu_exec_ids(&w->exec, &w->routing.routes, w->slot_of, 0, &w->slot_ids)
               : status; /* none is masked */
}

/* --- Expert nodes ---------------------------------------------------------------------------- */

static enum ggml_status compute_set(
    struct fb_gpu_walk *w, int i, int weight, struct ggml_tensor *stack, const int *index_of)
{
    return fb_masked_compute(w->masked, &w->exec, i, &w->routing.routes,
        fb_gpu_slots_transit(w->slots, weight), stack, index_of);
}

/* Computes node i with n experts whose units are in the machine's memory, through the transit. */
static enum ggml_status through_transit(
    struct fb_gpu_walk *w, int i, int weight, const struct fb_set *set)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    struct ggml_tensor *transit = fb_gpu_slots_transit(w->slots, weight);
    int units = (int)transit->ne[2];
    for (int done = 0; done < set->n && status == GGML_STATUS_SUCCESS; done += units) {
        memset(w->index_of, -1, (size_t)w->cap_experts * sizeof *w->index_of);
        for (int k = 0; k < units && done + k < set->n; k++) {
            const char *unit =
                (const char *)set->base + (uint64_t)set->index[done + k] * set->stride;
            fb_gpu_slots_transit_fill(w->slots, weight, k, unit);
            w->index_of[set->experts[done + k]] = k;
        }
        status = compute_set(w, i, weight, transit, w->index_of);
    }
    return status;
}

/* Node i with what the stream has of its experts: all in a lease, or set by set. */
static enum ggml_status with_stream(struct fb_gpu_walk *w, int i, int weight)
{
    struct fb_stream *stream = w->exec.binding->stream;
    struct forebay_error error;
    struct fb_set set = {0};
    enum ggml_status status = GGML_STATUS_SUCCESS;
    if (w->lease.group >= 0) {
        int part = w->exec.binding->weights->weights[weight].part;
        if (fb_stream_lease_wait(stream, &w->lease, part, &error) != FOREBAY_OK) {
            return fb_binding_fail(w->exec.binding, &error);
        }
        set.base = fb_stream_slots(stream, weight, &set.stride, &set.n_index);
        set.n = w->lease.n;
        set.experts = w->lease.experts;
        set.index = w->lease.slots;
        return through_transit(w, i, weight, &set);
    }
    do {
        if (fb_stream_sets_next(stream, weight, &set, &error) != FOREBAY_OK) {
            return fb_binding_fail(w->exec.binding, &error);
        }
        status = through_transit(w, i, weight, &set);
    } while (status == GGML_STATUS_SUCCESS && set.n > 0);
    return status;
}

/* The experts that are in slots first. */
static enum ggml_status compute_in_sets(struct fb_gpu_walk *w, int i, int weight)
{
    enum ggml_status status = fb_gpu_exec_compute(&w->exec, i); /* the node's input */
    ggml_backend_synchronize(w->exec.gpu);
    if (status == GGML_STATUS_SUCCESS && w->n_missing < w->routing.n_needed) {
        status = compute_set(w, i, weight, fb_gpu_slots_stack(w->slots, weight), w->slot_of);
    }
    if (status == GGML_STATUS_SUCCESS && w->n_missing > 0) {
        status = with_stream(w, i, weight);
    }
    return status;
}

/* --- The graph ------------------------------------------------------------------------------- */

static const struct fb_tensor_claim *claim_of_node(
    const struct fb_gpu_walk *w, const struct ggml_tensor *node)
{
    return w->slots && node->op == GGML_OP_MUL_MAT_ID ? fb_gpu_claim_of(node->src[0]) : NULL;
}

/* A node on a dense weight begins a slice, where llama.cpp begins a graph, too: back ends fuse
 * nodes of the same graph. */
static enum ggml_status visit_dense(struct fb_gpu_walk *w, int i, struct ggml_tensor *node)
{
    struct ggml_tensor *weight;
    enum ggml_status status = fb_gpu_exec_compute(&w->exec, i);
    if (status == GGML_STATUS_SUCCESS) {
        status = fb_gpu_dense_fetch(w->dense, node->src[0], &weight);
    }
    if (status == GGML_STATUS_SUCCESS) {
        fb_gpu_exec_change(&w->exec, node, weight, node->src[2]);
    }
    return status;
}

static enum ggml_status visit(struct fb_gpu_walk *w, int i)
{
    struct ggml_tensor *node = ggml_graph_node(w->exec.graph, i);
    if (fb_gpu_dense_is_used_by(node)) {
        return visit_dense(w, i, node);
    }
    const struct fb_tensor_claim *claim = claim_of_node(w, node);
    if (!claim) {
        return GGML_STATUS_SUCCESS;
    }
    int weight = claim->weight;
    if (w->ids != node->src[2] || w->group != fb_claim_weight(w->exec.binding, claim)->group) {
        enum ggml_status status = open_layer(w, i, weight);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    if (w->in_sets) {
        return compute_in_sets(w, i, weight);
    }
    /* Computed with its neighbours, on the slots. */
    fb_gpu_exec_change(&w->exec, node, fb_gpu_slots_stack(w->slots, weight), w->slot_ids);
    return GGML_STATUS_SUCCESS;
}

/* Tells the stream in which order the graph uses experts. False: it uses none. */
static bool schedule(struct fb_gpu_walk *w)
{
    int n_nodes = ggml_graph_n_nodes(w->exec.graph), n = 0;
    if (n_nodes > w->cap_order) {
        w->cap_order = n_nodes;
        w->order = fb_xrealloc(w->order, (size_t)n_nodes * sizeof *w->order);
    }
    for (int i = 0; i < n_nodes; i++) {
        const struct ggml_tensor *node = ggml_graph_node(w->exec.graph, i);
        const struct fb_tensor_claim *claim = claim_of_node(w, node);
        if (claim) {
            w->order[n++] = (struct fb_expert_use){
                claim->weight, (int)node->src[2]->ne[1], (int)node->src[2]->ne[0]};
        }
    }
    if (n > 0) {
        fb_stream_schedule_experts(w->exec.binding->stream, w->order, n);
    }
    return n > 0;
}

static enum ggml_status walk_streamed(struct fb_gpu_walk *w)
{
    enum ggml_status status = fb_gpu_dense_begin(w->dense, w->exec.binding, w->exec.graph);
    int n = ggml_graph_n_nodes(w->exec.graph);
    for (int i = 0; i < n && status == GGML_STATUS_SUCCESS; i++) {
        status = visit(w, i);
    }
    if (status == GGML_STATUS_SUCCESS) {
        status = fb_gpu_exec_compute(&w->exec, n);
    }
    ggml_backend_synchronize(w->exec.gpu); /* it computes with nodes that are restored now */
    close_layer(w);
    fb_gpu_exec_restore(&w->exec);
    fb_gpu_dense_end(w->dense);
    return status;
}

enum ggml_status fb_gpu_walk_graph(struct fb_gpu_walk *w, struct fb_binding *b,
    struct fb_gpu_slots *slots, struct ggml_cgraph *graph)
{
    w->exec.binding = b;
    w->exec.graph = graph;
    w->exec.from = 0;
    w->slots = slots;
    bool streams = b && b->stream, experts = streams && slots && schedule(w);
    if (!experts && !(streams && fb_gpu_dense_count(graph) > 0)) {
        return ggml_backend_graph_compute_async(w->exec.gpu, graph);
    }
    fb_memory_watch_graph_begin(b->memory_watch);
    w->computing = true;
    enum ggml_status status = walk_streamed(w);
    w->computing = false;
    fb_memory_watch_graph_end(b->memory_watch);
    return status;
}

void fb_gpu_walk_free(struct fb_gpu_walk *w)
{
    if (w) {
        if (w->computing) { /* an exception of llama.cpp's left the graph half computed */
            close_layer(w);
            fb_memory_watch_graph_end(w->exec.binding->memory_watch);
        }
        fb_gpu_exec_release(&w->exec);
        fb_masked_free(w->masked);
        fb_gpu_dense_free(w->dense);
        fb_routing_release(&w->routing);
        fb_lease_clear(&w->lease);
        free(w->order);
        free(w->missing);
        free(w->missing_uses);
        free(w->slot_of);
        free(w->index_of);
        free(w->raw_ids);
        free(w);
    }
}
