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
 *
 * Masked rows. Kernels for many tokens skip rows whose id is not of the stack, so that each set
 * adds its rows to the node's result. Those for few tokens compute whatever an id points at, and
 * would overwrite rows of other sets: then the node is computed into memory of ours, and the set's
 * rows are copied. Which is which is tried for every shape (keeps_masked).
 */
#include "gpu/gpu_walk.h"

#include <stdlib.h>
#include <string.h>

#include "backend/memory_watch.h"
#include "base/error.h"
#include "base/units.h"
#include "gpu/graph_slice.h"
#include "model/limits.h"

#include "stream/transit.h"

#define MAX_SHAPES 256
#define COPIES     512 /* rows that are copied by one graph */
#define CTX_BYTES  (2 * FB_MIB)
#define PATTERN    0xA5

/* A shape of an expert node, and whether the GPU leaves masked rows alone in it. */
struct node_shape {
    enum ggml_type type;
    int64_t columns, rows, picks, tokens;
    bool inputs; /* an input for each pick, not one for all */
    bool keeps;
};

/* A node that was changed, and what it was. */
struct changed {
    struct ggml_tensor *node, *weight, *ids;
};

struct fb_gpu_walk {
    ggml_backend_t gpu;
    bool computing; /* a graph; then these are set: */
    struct fb_binding *binding;
    struct fb_gpu_slots *slots;
    struct ggml_cgraph *graph;
    int from;

    struct changed *changed;
    int n_changed, cap_changed;
    struct fb_expert_use *order;
    int cap_order;

    /* The open layer: */
    const struct ggml_tensor *ids; /* NULL: none */
    int group;
    struct fb_routing routing;
    bool in_sets, from_stream; /* in sets; ... that the stream hands out, too */
    struct fb_lease lease;
    int *missing, n_missing;
    int *slot_of;  /* by expert: slot of the GPU, or -1 */
    int *index_of; /* by expert: unit of the transit, or -1; for one set */
    int cap_experts;

    /* Memory on the GPU, grown as needed: */
    struct ggml_context *ctx; /* headers of tensors and small graphs of ours */
    ggml_backend_buffer_t ids_buffer, rows_buffer;
    int32_t *host_ids; /* of all rows, to be copied there */
    char *raw_ids;     /* as read back */
    size_t cap_host_ids, cap_raw_ids;

    struct node_shape shapes[MAX_SHAPES];
    int n_shapes;
};

struct fb_gpu_walk *fb_gpu_walk_new(ggml_backend_t gpu)
{
    struct fb_gpu_walk *w = fb_xcalloc(1, sizeof *w);
    struct ggml_init_params params = {.mem_size = CTX_BYTES, .no_alloc = true};
    w->gpu = gpu;
    w->ctx = ggml_init(params);
    w->lease.group = -1;
    w->group = -1;
    return w;
}

/* --- Computing ------------------------------------------------------------------------------- */

/* Hands nodes [from, to) to the GPU. */
static enum ggml_status compute(struct fb_gpu_walk *w, int to)
{
    if (w->from >= to) {
        return GGML_STATUS_SUCCESS;
    }
    struct ggml_cgraph slice = fb_graph_slice(w->graph, w->from, to);
    w->from = to;
    return ggml_backend_graph_compute_async(w->gpu, &slice);
}

/* A buffer of the GPU with room for `bytes`, which may replace the one that there was. */
static bool reserve(struct fb_gpu_walk *w, ggml_backend_buffer_t *buffer, size_t bytes)
{
    if (*buffer && ggml_backend_buffer_get_size(*buffer) >= bytes) {
        return true;
    }
    ggml_backend_buffer_free(*buffer);
    *buffer = ggml_backend_alloc_buffer(w->gpu, bytes + bytes / 2);
    return *buffer != NULL;
}

static struct ggml_tensor *tensor_at(struct fb_gpu_walk *w, ggml_backend_buffer_t buffer,
    size_t offset, enum ggml_type type, int64_t ne0, int64_t ne1)
{
    struct ggml_tensor *t = ggml_new_tensor_2d(w->ctx, type, ne0, ne1);
    ggml_backend_tensor_alloc(buffer, t, (char *)ggml_backend_buffer_get_base(buffer) + offset);
    return t;
}

static enum ggml_status fail_memory(struct fb_gpu_walk *w)
{
    struct forebay_error error;
    fb_fail(&error, FOREBAY_E_NOMEM, "Give a smaller --device-mem, or a smaller --batch.",
        "the device has no memory left for a batch");
    return fb_binding_fail(w->binding, &error);
}

/* The index of each row's expert in a tensor on the GPU; `masked`, where it has none (or where
 * `index_of` is NULL). NULL without memory. */
static struct ggml_tensor *upload_ids(struct fb_gpu_walk *w, const int *index_of, int masked)
{
    const struct fb_routes *r = &w->routing.routes;
    size_t n = (size_t)r->tokens * (size_t)r->picks;
    if (n > w->cap_host_ids) {
        w->cap_host_ids = n;
        w->host_ids = fb_xrealloc(w->host_ids, n * sizeof *w->host_ids);
    }
    for (size_t i = 0; i < n; i++) {
        int index = index_of ? index_of[r->experts[i]] : -1;
        w->host_ids[i] = index < 0 ? masked : index;
    }
    if (!reserve(w, &w->ids_buffer, n * sizeof *w->host_ids + 64)) {
        return NULL;
    }
    struct ggml_tensor *t = tensor_at(w, w->ids_buffer, 0, GGML_TYPE_I32, r->picks, r->tokens);
    ggml_backend_tensor_set(t, w->host_ids, 0, n * sizeof *w->host_ids);
    return t;
}

static void change(struct fb_gpu_walk *w, struct ggml_tensor *node, struct ggml_tensor *weight,
    struct ggml_tensor *ids)
{
    if (w->n_changed == w->cap_changed) {
        w->cap_changed = w->cap_changed ? 2 * w->cap_changed : 256;
        w->changed = fb_xrealloc(w->changed, (size_t)w->cap_changed * sizeof *w->changed);
    }
    w->changed[w->n_changed++] = (struct changed){node, node->src[0], node->src[2]};
    node->src[0] = weight;
    node->src[2] = ids;
}

static void restore(struct fb_gpu_walk *w)
{
    while (w->n_changed > 0) {
        struct changed *c = &w->changed[--w->n_changed];
        c->node->src[0] = c->weight;
        c->node->src[2] = c->ids;
    }
}

/* --- Masked rows ----------------------------------------------------------------------------- */

static size_t row_bytes(const struct ggml_tensor *node)
{
    return (size_t)node->ne[0] * sizeof(float);
}

/* Computes node i, which was changed, into memory of ours. */
static enum ggml_status compute_aside(struct fb_gpu_walk *w, int i)
{
    struct ggml_tensor *node = ggml_graph_node(w->graph, i);
    struct ggml_tensor kept = *node;
    if (!reserve(w, &w->rows_buffer, ggml_nbytes(node) + 256)) {
        return fail_memory(w);
    }
    node->buffer = w->rows_buffer;
    node->data = ggml_backend_buffer_get_base(w->rows_buffer);
    w->from = i;
    enum ggml_status status = compute(w, i + 1);
    ggml_backend_synchronize(w->gpu);
    node->buffer = kept.buffer;
    node->data = kept.data;
    return status;
}

/* Tries it with every row masked, on the node's result, which is not computed yet. */
static enum ggml_status try_shape(struct fb_gpu_walk *w, int i, bool *keeps)
{
    struct ggml_tensor *node = ggml_graph_node(w->graph, i);
    size_t bytes = ggml_nbytes(node);
    unsigned char *seen = fb_xmalloc(bytes);
    memset(seen, PATTERN, bytes);
    ggml_backend_tensor_set(node, seen, 0, bytes);
    w->from = i;
    enum ggml_status status = compute(w, i + 1);
    ggml_backend_synchronize(w->gpu);
    ggml_backend_tensor_get(node, seen, 0, bytes);
    *keeps = true;
    for (size_t at = 0; at < bytes && *keeps; at++) {
        *keeps = seen[at] == PATTERN;
    }
    free(seen);
    return status;
}

/* Whether the GPU leaves masked rows of node i alone. `transit`: of the node's weight. */
static enum ggml_status keeps_masked(
    struct fb_gpu_walk *w, int i, struct ggml_tensor *transit, bool *keeps)
{
    struct ggml_tensor *node = ggml_graph_node(w->graph, i);
    struct node_shape shape = {transit->type, transit->ne[0], transit->ne[1], node->ne[1],
        node->ne[2], node->src[1]->ne[1] > 1, false};
    for (int k = 0; k < w->n_shapes; k++) {
        struct node_shape *s = &w->shapes[k];
        if (s->type == shape.type && s->columns == shape.columns && s->rows == shape.rows &&
            s->picks == shape.picks && s->tokens == shape.tokens && s->inputs == shape.inputs) {
            *keeps = s->keeps;
            return GGML_STATUS_SUCCESS;
        }
    }
    struct ggml_tensor *ids = upload_ids(w, NULL, (int)transit->ne[2]);
    if (!ids) {
        return fail_memory(w);
    }
    change(w, node, transit, ids);
    enum ggml_status status = try_shape(w, i, &shape.keeps);
    restore(w);
    if (w->n_shapes < MAX_SHAPES) {
        w->shapes[w->n_shapes++] = shape;
    }
    *keeps = shape.keeps;
    return status;
}

/* Adds the copy of a row from our memory to the node's result. */
static void add_copy(
    struct fb_gpu_walk *w, struct ggml_cgraph *graph, const struct ggml_tensor *node, int row)
{
    size_t at = (size_t)row * row_bytes(node);
    struct ggml_tensor *from = tensor_at(w, w->rows_buffer, at, GGML_TYPE_F32, node->ne[0], 1);
    struct ggml_tensor *to = ggml_new_tensor_2d(w->ctx, GGML_TYPE_F32, node->ne[0], 1);
    to->buffer = node->buffer;
    to->data = (char *)node->data + at;
    struct ggml_tensor *copy = ggml_cpy(w->ctx, from, to);
    ggml_backend_view_init(copy);
    ggml_build_forward_expand(graph, copy);
}

/* Copies the rows that are not masked from our memory to where node i's result belongs. */
static enum ggml_status copy_rows(struct fb_gpu_walk *w, int i, const int *index_of)
{
    const struct ggml_tensor *node = ggml_graph_node(w->graph, i);
    const struct fb_routes *r = &w->routing.routes;
    int n = r->tokens * r->picks, row = 0;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    while (row < n && status == GGML_STATUS_SUCCESS) {
        ggml_reset(w->ctx);
        struct ggml_cgraph *graph = ggml_new_graph_custom(w->ctx, 4 * COPIES, false);
        for (int copies = 0; row < n && copies < COPIES; row++) {
            if (index_of[r->experts[row]] >= 0) {
                add_copy(w, graph, node, row);
                copies++;
            }
        }
        status = ggml_backend_graph_compute_async(w->gpu, graph);
        ggml_backend_synchronize(w->gpu);
    }
    return status;
}

/* Computes node i with the experts that are in `stack`, at index_of; others are left out. */
static enum ggml_status compute_set(
    struct fb_gpu_walk *w, int i, int weight, struct ggml_tensor *stack, const int *index_of)
{
    struct ggml_tensor *node = ggml_graph_node(w->graph, i);
    bool keeps = false;
    ggml_reset(w->ctx); /* nothing that it holds is in use */
    enum ggml_status status = keeps_masked(w, i, fb_gpu_slots_transit(w->slots, weight), &keeps);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    /* A row that is not skipped must find a unit; whatever it computes is not used. */
    struct ggml_tensor *ids = upload_ids(w, index_of, keeps ? (int)stack->ne[2] : 0);
    if (!ids) {
        return fail_memory(w);
    }
    change(w, node, stack, ids);
    if (keeps) {
        w->from = i;
        status = compute(w, i + 1);
        ggml_backend_synchronize(w->gpu);
        restore(w);
        return status;
    }
    status = compute_aside(w, i);
    restore(w);
    return status == GGML_STATUS_SUCCESS ? copy_rows(w, i, index_of) : status;
}

/* --- A layer --------------------------------------------------------------------------------- */

static void close_layer(struct fb_gpu_walk *w)
{
    struct fb_stream *stream = w->binding->stream;
    if (w->lease.group >= 0) {
        fb_stream_lease_end(stream, &w->lease);
    }
    if (w->in_sets) {
        fb_stream_sets_end(stream);
    }
    if (w->group >= 0) {
        fb_tier_close(fb_gpu_slots_tier(w->slots), w->group);
    }
    w->in_sets = w->from_stream = false;
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
    return fb_binding_read_routes(w->binding, &w->routing, &here, group);
}

/* Opens the layer in the tier. */
static void look_up(struct fb_gpu_walk *w, int n_expert, bool *fits)
{
    const struct fb_routes *r = &w->routing.routes;
    if (n_expert > w->cap_experts) {
        size_t n = (size_t)n_expert;
        w->cap_experts = n_expert;
        w->missing = fb_xrealloc(w->missing, n * sizeof *w->missing);
        w->slot_of = fb_xrealloc(w->slot_of, n * sizeof *w->slot_of);
        w->index_of = fb_xrealloc(w->index_of, n * sizeof *w->index_of);
    }
    const struct fb_tier_need need = {r->needed, r->uses, r->n_needed};
    w->n_missing =
        fb_tier_open(fb_gpu_slots_tier(w->slots), w->group, &need, w->slot_of, w->missing, fits);
}

/* Brings a part of the lease's experts from the stream's slots into slots of the GPU. */
static enum ggml_status fill_part(struct fb_gpu_walk *w, int part)
{
    struct fb_stream *stream = w->binding->stream;
    struct forebay_error error;
    int weight = w->binding->weights->groups[w->group].weight[part], n_slots;
    uint64_t stride;
    if (fb_stream_lease_wait(stream, &w->lease, part, &error) != FOREBAY_OK) {
        return fb_binding_fail(w->binding, &error);
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
    struct fb_stream *stream = w->binding->stream;
    const struct fb_group *group = &w->binding->weights->groups[w->group];
    enum ggml_status status = GGML_STATUS_SUCCESS;
    int uses[FB_MAX_EXPERTS], n = 0, most = fb_stream_lease_limit(stream, w->group);
    for (int i = 0; i < w->n_missing && status == GGML_STATUS_SUCCESS; i += n) {
        n = w->n_missing - i < most ? w->n_missing - i : most;
        n = n < FB_MAX_EXPERTS ? n : FB_MAX_EXPERTS;
        for (int k = 0; k < n; k++) {
            uses[k] = w->routing.rows[w->missing[i + k]];
        }
        fb_stream_lease_begin(
            stream, &w->lease, w->group, w->missing + i, uses, n, fb_group_parts(group));
        for (int p = 0; p < group->n_parts && status == GGML_STATUS_SUCCESS; p++) {
            status = fill_part(w, p);
        }
        fb_stream_lease_end(stream, &w->lease);
    }
    return status;
}

/* The routes without the experts that are in slots of the GPU already. */
static void ask_stream(struct fb_gpu_walk *w, int weight)
{
    struct fb_routes routes = w->routing.routes;
    size_t n = (size_t)routes.tokens * (size_t)routes.picks;
    int *experts = fb_xmalloc(n * sizeof *experts);
    int *uses = fb_xmalloc((size_t)w->n_missing * sizeof *uses);
    for (size_t i = 0; i < n; i++) {
        experts[i] = w->slot_of[routes.experts[i]] < 0 ? routes.experts[i] : -1;
    }
    for (int i = 0; i < w->n_missing; i++) {
        uses[i] = w->routing.rows[w->missing[i]];
    }
    routes.experts = experts;
    routes.needed = w->missing;
    routes.uses = uses;
    routes.n_needed = w->n_missing;
    fb_stream_layer_begin(w->binding->stream, &w->lease, weight, &routes);
    free(experts);
    free(uses);
}

/* Computes the nodes before node i, and prepares the experts of its layer. */
static enum ggml_status open_layer(struct fb_gpu_walk *w, int i, int weight)
{
    struct fb_binding *b = w->binding;
    const struct ggml_tensor *ids = ggml_graph_node(w->graph, i)->src[2];
    int g = b->weights->weights[weight].group;
    enum ggml_status status = compute(w, i);
    ggml_backend_synchronize(w->gpu);
    close_layer(w);
    ggml_reset(w->ctx);
    if (status == GGML_STATUS_SUCCESS) {
        fb_stream_adapt(b->stream, true);
        status = read_ids(w, ids, g);
    }
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    w->ids = ids;
    w->group = g;
    if (w->routing.n_needed == 0) {
        return GGML_STATUS_SUCCESS;
    }
    bool fits;
    look_up(w, b->weights->groups[g].n_expert, &fits);
    if (fits) {
        return fill_missing(w);
    }
    w->in_sets = true;
    w->from_stream = w->n_missing > 0;
    if (w->from_stream) {
        ask_stream(w, weight);
    }
    return GGML_STATUS_SUCCESS;
}

/* --- Expert nodes ---------------------------------------------------------------------------- */

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
    struct fb_stream *stream = w->binding->stream;
    struct forebay_error error;
    struct fb_set set = {0};
    enum ggml_status status = GGML_STATUS_SUCCESS;
    if (w->lease.group >= 0) {
        int part = w->binding->weights->weights[weight].part;
        if (fb_stream_lease_wait(stream, &w->lease, part, &error) != FOREBAY_OK) {
            return fb_binding_fail(w->binding, &error);
        }
        set.base = fb_stream_slots(stream, weight, &set.stride, &set.n_index);
        set.n = w->lease.n;
        set.experts = w->lease.experts;
        set.index = w->lease.slots;
        return through_transit(w, i, weight, &set);
    }
    do {
        if (fb_stream_sets_next(stream, weight, &set, &error) != FOREBAY_OK) {
            return fb_binding_fail(w->binding, &error);
        }
        status = through_transit(w, i, weight, &set);
    } while (status == GGML_STATUS_SUCCESS && set.n > 0);
    return status;
}

/* The experts that are in slots first. */
static enum ggml_status compute_in_sets(struct fb_gpu_walk *w, int i, int weight)
{
    enum ggml_status status = compute(w, i); /* the node's input */
    ggml_backend_synchronize(w->gpu);
    if (status == GGML_STATUS_SUCCESS && w->n_missing < w->routing.n_needed) {
        status = compute_set(w, i, weight, fb_gpu_slots_stack(w->slots, weight), w->slot_of);
    }
    if (status == GGML_STATUS_SUCCESS && w->from_stream) {
        status = with_stream(w, i, weight);
    }
    w->from = i + 1;
    return status;
}

/* The node's weight becomes the slots; it is computed with its neighbours. */
static enum ggml_status compute_together(struct fb_gpu_walk *w, int i, int weight)
{
    struct ggml_tensor *node = ggml_graph_node(w->graph, i), *ids = NULL;
    for (int k = w->n_changed - 1; k >= 0 && !ids; k--) { /* those of the layer's first node */
        ids = w->changed[k].ids == w->ids ? w->changed[k].node->src[2] : NULL;
    }
    struct ggml_tensor *stack = fb_gpu_slots_stack(w->slots, weight);
    ids = ids ? ids : upload_ids(w, w->slot_of, 0); /* none is masked */
    if (!ids) {
        return fail_memory(w);
    }
    change(w, node, stack, ids);
    return GGML_STATUS_SUCCESS;
}

/* --- The graph ------------------------------------------------------------------------------- */

static const struct fb_tensor_claim *claim_of_node(
    const struct fb_gpu_walk *w, const struct ggml_tensor *node)
{
    return w->slots && node->op == GGML_OP_MUL_MAT_ID ? fb_gpu_claim_of(node->src[0]) : NULL;
}

static enum ggml_status visit(struct fb_gpu_walk *w, int i)
{
    struct ggml_tensor *node = ggml_graph_node(w->graph, i);
    const struct fb_tensor_claim *claim = claim_of_node(w, node);
    if (!claim) {
        return GGML_STATUS_SUCCESS;
    }
    int weight = claim->weight;
    if (w->ids != node->src[2] || w->group != w->binding->weights->weights[weight].group) {
        enum ggml_status status = open_layer(w, i, weight);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    if (w->routing.n_needed == 0) { /* no rows: nothing to compute with */
        return compute_together(w, i, weight);
    }
    return w->in_sets ? compute_in_sets(w, i, weight) : compute_together(w, i, weight);
}

/* Tells the stream in which order the graph uses experts. False: it uses none. */
static bool schedule(struct fb_gpu_walk *w)
{
    int n_nodes = ggml_graph_n_nodes(w->graph), n = 0;
    if (n_nodes > w->cap_order) {
        w->cap_order = n_nodes;
        w->order = fb_xrealloc(w->order, (size_t)n_nodes * sizeof *w->order);
    }
    for (int i = 0; i < n_nodes; i++) {
        const struct ggml_tensor *node = ggml_graph_node(w->graph, i);
        const struct fb_tensor_claim *claim = claim_of_node(w, node);
        if (claim) {
            w->order[n++] = (struct fb_expert_use){
                claim->weight, (int)node->src[2]->ne[1], (int)node->src[2]->ne[0]};
        }
    }
    if (n > 0) {
        fb_stream_schedule_experts(w->binding->stream, w->order, n);
    }
    return n > 0;
}

static enum ggml_status walk_streamed(struct fb_gpu_walk *w)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    int n = ggml_graph_n_nodes(w->graph);
    for (int i = 0; i < n && status == GGML_STATUS_SUCCESS; i++) {
        status = visit(w, i);
    }
    if (status == GGML_STATUS_SUCCESS) {
        status = compute(w, n);
    }
    ggml_backend_synchronize(w->gpu); /* it computes with nodes that are restored now */
    close_layer(w);
    restore(w);
    return status;
}

enum ggml_status fb_gpu_walk_graph(struct fb_gpu_walk *w, struct fb_binding *b,
    struct fb_gpu_slots *slots, struct ggml_cgraph *graph)
{
    w->binding = b;
    w->slots = slots;
    w->graph = graph;
    w->from = 0;
    if (!b || !slots || !b->stream || !schedule(w)) {
        return ggml_backend_graph_compute_async(w->gpu, graph);
    }
    ggml_reset(w->ctx);
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
            fb_memory_watch_graph_end(w->binding->memory_watch);
        }
        ggml_backend_buffer_free(w->ids_buffer);
        ggml_backend_buffer_free(w->rows_buffer);
        ggml_free(w->ctx);
        fb_routing_release(&w->routing);
        fb_lease_clear(&w->lease);
        free(w->changed);
        free(w->order);
        free(w->missing);
        free(w->slot_of);
        free(w->index_of);
        free(w->host_ids);
        free(w->raw_ids);
        free(w);
    }
}
