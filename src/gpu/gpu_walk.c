/*
 * gpu_walk.c - see gpu_walk.h. Nodes [from, i) are those not handed to the GPU yet.
 *
 *      ... router | gate up act down ... router | gate ...
 *      [from ..... i)                               the first expert node of a layer: these are
 *                 |                                 computed, and the GPU is waited for
 *                 [from .................. i)       together: everything up to the next layer's
 *                 [g][u]  [d]                       in sets: expert nodes alone, several times
 *
 * With slots of its own on the GPU, a layer is opened in two levels (stream/levels.h). With shared
 * slots (gpu_slots.h) it is opened in the stream alone, and its lease stays open while the GPU
 * computes with the lease's slots.
 *
 * The GPU is waited for before anything that it may be reading is overwritten: slots, transit, ids.
 */
#include "gpu/gpu_walk.h"

#include <stdlib.h>
#include <string.h>

#include "backend/memory_watch.h"
#include "base/error.h"
#include "gpu/gpu_dense.h"
#include "gpu/gpu_shared.h"
#include "gpu/masked.h"
#include "stream/levels.h"

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
    struct fb_routing routing;
    char *raw_ids; /* as read back */
    size_t cap_raw_ids;
    int group;
    bool in_sets;                 /* else the nodes are computed with their neighbours ... */
    struct ggml_tensor *slot_ids; /* ... and these ids, on the GPU */
    struct fb_levels levels;      /* open, unless the layer has no rows; not with shared slots */
    struct fb_lease lease;        /* with shared slots */
    int *index_of;                /* by expert: where its unit is in a stack, or -1 */
    int cap_experts;
};

/* --- Copies ----------------------------------------------------------------------------------- */

static void copy_up(void *user, int weight, int slot, const void *unit)
{
    const struct fb_gpu_walk *w = user;
    fb_gpu_slots_fill(w->slots, weight, slot, unit);
}

static void copy_down(void *user, int weight, int slot, void *unit)
{
    const struct fb_gpu_walk *w = user;
    fb_gpu_slots_read(w->slots, weight, slot, unit);
}

struct fb_gpu_walk *fb_gpu_walk_new(ggml_backend_t gpu)
{
    struct fb_gpu_walk *w = fb_xcalloc(1, sizeof *w);
    fb_gpu_exec_init(&w->exec, gpu);
    w->masked = fb_masked_new();
    w->levels.device = (struct fb_levels_device){.up = copy_up, .down = copy_down, .user = w};
    w->dense = fb_gpu_dense_new(gpu);
    w->lease.group = -1;
    w->group = -1;
    return w;
}

/* --- A layer --------------------------------------------------------------------------------- */

/* Whether the slots are the stream's own. */
static bool shared(const struct fb_gpu_walk *w)
{
    return w->slots && fb_gpu_slots_shared(w->slots);
}

static void close_layer(struct fb_gpu_walk *w)
{
    struct fb_stream *stream = w->exec.binding->stream;
    fb_levels_close(&w->levels);
    if (w->lease.group >= 0) {
        fb_stream_lease_end(stream, &w->lease);
    }
    if (shared(w)) {
        fb_stream_sets_end(stream);
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

static void reserve_index(struct fb_gpu_walk *w)
{
    int n_expert = w->exec.binding->weights->groups[w->group].n_expert;
    if (n_expert > w->cap_experts) {
        w->cap_experts = n_expert;
        w->index_of = fb_xrealloc(w->index_of, (size_t)n_expert * sizeof *w->index_of);
    }
    memset(w->index_of, -1, (size_t)w->cap_experts * sizeof *w->index_of);
}

/* Opens the layer with shared slots: together if the stream has all experts in slots, and these are
 * the GPU's. */
static enum ggml_status open_shared(struct fb_gpu_walk *w, int weight)
{
    struct fb_binding *b = w->exec.binding;
    const struct fb_routes *routes = &w->routing.routes;
    struct forebay_error error;
    bool together = fb_stream_layer_begin(b->stream, &w->lease, weight, routes);
    w->in_sets = !together || !fb_gpu_shared_group(fb_gpu_slots_shared(w->slots), w->group);
    /* All parts now, for the time of a read must not decide what is computed in one graph. */
    for (int p = 0; p < b->weights->groups[w->group].n_parts && together; p++) {
        if (fb_stream_lease_wait(b->stream, &w->lease, p, &error) != FOREBAY_OK) {
            return fb_binding_fail(b, &error);
        }
    }
    if (w->in_sets) {
        return GGML_STATUS_SUCCESS;
    }
    reserve_index(w);
    for (int k = 0; k < w->lease.n; k++) {
        w->index_of[w->lease.experts[k]] = w->lease.slots[k];
    }
    return fb_gpu_exec_ids(&w->exec, routes, w->index_of, 0, &w->slot_ids); /* none is masked */
}

/* Opens the layer in both levels: fills its slots, or asks the stream for what is missing. */
static enum ggml_status open_levels(struct fb_gpu_walk *w, int weight)
{
    struct forebay_error error;
    fb_levels_open(&w->levels, w->group, &w->routing.routes);
    w->in_sets = !w->levels.fits;
    if (w->in_sets) {
        if (w->levels.n_missing > 0) {
            fb_levels_ask(&w->levels, weight, &w->routing.routes);
        }
        return GGML_STATUS_SUCCESS;
    }
    if (fb_levels_fill(&w->levels, &error) != FOREBAY_OK) {
        return fb_binding_fail(w->exec.binding, &error);
    }
    return fb_gpu_exec_ids(
        &w->exec, &w->routing.routes, w->levels.slot_of, 0, &w->slot_ids); /* none is masked */
}

/* Computes the nodes before node i, and prepares the experts of its layer. */
static enum ggml_status open_layer(struct fb_gpu_walk *w, int i, int weight)
{
    struct fb_binding *b = w->exec.binding;
    const struct ggml_tensor *ids = ggml_graph_node(w->exec.graph, i)->src[2];
    int g = b->weights->weights[weight].group;
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
    if (w->routing.n_needed == 0) { /* no token's logits are wanted */
        return fb_gpu_exec_ids(&w->exec, &w->routing.routes, NULL, 0, &w->slot_ids);
    }
    return shared(w) ? open_shared(w, weight) : open_levels(w, weight);
}

/* --- Expert nodes ---------------------------------------------------------------------------- */

static enum ggml_status compute_set(
    struct fb_gpu_walk *w, int i, int weight, struct ggml_tensor *stack, const int *index_of)
{
    return fb_masked_compute(w->masked, &w->exec, i, &w->routing.routes,
        fb_gpu_slots_transit(w->slots, weight), stack, index_of);
}

/* Computes node i with those experts of the set that have just got a slot. */
static enum ggml_status in_new_slots(
    struct fb_gpu_walk *w, int i, int weight, const struct fb_set *set)
{
    bool any = false;
    reserve_index(w);
    for (int k = 0; k < set->n; k++) {
        int e = set->experts[k];
        w->index_of[e] = w->levels.admitted[e];
        any = any || w->levels.admitted[e] >= 0;
    }
    return any ? compute_set(w, i, weight, fb_gpu_slots_stack(w->slots, weight), w->index_of)
               : GGML_STATUS_SUCCESS;
}

/* Computes node i with the set's experts through the transit, without those that have `slots`. */
static enum ggml_status through_transit(
    struct fb_gpu_walk *w, int i, int weight, const struct fb_set *set, const int *slots)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    struct ggml_tensor *transit = fb_gpu_slots_transit(w->slots, weight);
    for (int k = 0; k < set->n && status == GGML_STATUS_SUCCESS;) {
        int n = 0;
        reserve_index(w);
        for (; k < set->n && n < transit->ne[2]; k++) {
            const char *unit = (const char *)set->base + (uint64_t)set->index[k] * set->stride;
            if (!slots || slots[set->experts[k]] < 0) {
                fb_gpu_slots_transit_fill(w->slots, weight, n, unit);
                w->index_of[set->experts[k]] = n++;
            }
        }
        if (n > 0) {
            status = compute_set(w, i, weight, transit, w->index_of);
        }
    }
    return status;
}

/* Computes node i with a set of the stream: in its slots if these are the GPU's, too. */
static enum ggml_status in_shared_slots(
    struct fb_gpu_walk *w, int i, int weight, const struct fb_set *set)
{
    struct ggml_tensor *stack = fb_gpu_slots_stack(w->slots, weight);
    uint64_t stride;
    int n_slots;
    if (set->n == 0) {
        return GGML_STATUS_SUCCESS;
    }
    if (!stack ||
        set->base != fb_stream_slots(w->exec.binding->stream, weight, &stride, &n_slots)) {
        return through_transit(w, i, weight, set, NULL);
    }
    reserve_index(w);
    for (int k = 0; k < set->n; k++) {
        w->index_of[set->experts[k]] = set->index[k];
    }
    return compute_set(w, i, weight, stack, w->index_of);
}

/* Node i with shared slots: with all its experts in the lease, or set by set. */
static enum ggml_status with_shared(struct fb_gpu_walk *w, int i, int weight)
{
    struct fb_stream *stream = w->exec.binding->stream;
    struct forebay_error error;
    struct fb_set set = {.n = w->lease.n, .experts = w->lease.experts, .index = w->lease.slots};
    enum ggml_status status = GGML_STATUS_SUCCESS;
    if (w->lease.group >= 0) {
        set.base = fb_stream_slots(stream, weight, &set.stride, &set.n_index);
        return in_shared_slots(w, i, weight, &set);
    }
    do {
        if (fb_stream_sets_next(stream, weight, &set, &error) != FOREBAY_OK) {
            return fb_binding_fail(w->exec.binding, &error);
        }
        status = in_shared_slots(w, i, weight, &set);
    } while (status == GGML_STATUS_SUCCESS && set.n > 0);
    return status;
}

/* Node i with the experts that the slots do not have, set by set. */
static enum ggml_status with_missing(struct fb_gpu_walk *w, int i, int weight)
{
    struct forebay_error error;
    struct fb_set set = {0};
    enum ggml_status status = GGML_STATUS_SUCCESS;
    do {
        if (fb_levels_next(&w->levels, weight, &set, &error) != FOREBAY_OK) {
            return fb_binding_fail(w->exec.binding, &error);
        }
        status = in_new_slots(w, i, weight, &set);
        if (status == GGML_STATUS_SUCCESS) {
            status = through_transit(w, i, weight, &set, w->levels.admitted);
        }
    } while (status == GGML_STATUS_SUCCESS && set.n > 0);
    return status;
}

/* The experts that are in slots first. */
static enum ggml_status compute_in_sets(struct fb_gpu_walk *w, int i, int weight)
{
    enum ggml_status status = fb_gpu_exec_compute(&w->exec, i); /* the node's input */
    ggml_backend_synchronize(w->exec.gpu);
    if (status == GGML_STATUS_SUCCESS && shared(w)) {
        return with_shared(w, i, weight);
    }
    if (status == GGML_STATUS_SUCCESS && w->levels.n_missing < w->routing.n_needed) {
        status = compute_set(w, i, weight, fb_gpu_slots_stack(w->slots, weight), w->levels.slot_of);
    }
    if (status == GGML_STATUS_SUCCESS && w->levels.n_missing > 0) {
        status = with_missing(w, i, weight);
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
    /* Computed with its neighbours, on the slots; without rows, on any stack. */
    struct ggml_tensor *stack = fb_gpu_slots_stack(w->slots, weight);
    stack = stack ? stack : fb_gpu_slots_transit(w->slots, weight);
    fb_gpu_exec_change(&w->exec, node, stack, w->slot_ids);
    return GGML_STATUS_SUCCESS;
}

/* Lists the expert matrices that the graph uses, in order. Returns their number. */
static int list_uses(struct fb_gpu_walk *w)
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
    return n;
}

static enum ggml_status walk_streamed(struct fb_gpu_walk *w, int n_uses)
{
    fb_stream_schedule_experts(w->exec.binding->stream, w->order, n_uses);
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
    bool streams = b && b->stream;
    int n_uses = streams && slots ? list_uses(w) : 0;
    if (n_uses == 0 && !(streams && fb_gpu_dense_count(graph) > 0)) {
        return ggml_backend_graph_compute_async(w->exec.gpu, graph);
    }
    fb_memory_watch_graph_begin(b->memory_watch);
    if (slots && !shared(w)) {
        w->levels.weights = b->weights;
        w->levels.stream = b->stream;
        w->levels.tier = fb_gpu_slots_tier(slots);
        fb_gpu_slots_adapt(slots, &w->levels);
    }
    w->computing = true;
    enum ggml_status status = walk_streamed(w, n_uses);
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
        fb_levels_release(&w->levels);
        fb_lease_clear(&w->lease);
        free(w->order);
        free(w->index_of);
        free(w->raw_ids);
        free(w);
    }
}
