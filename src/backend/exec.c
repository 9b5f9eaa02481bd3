/*
 * exec.c - computing a graph: nodes with a claimed weight on shadows, all others as they are.
 *
 * Nodes are collected into a run and computed together by the CPU backend. A run ends where
 * something must happen between nodes: a streamed weight must have arrived, the experts that a
 * router chose must be known.
 *
 *      [norm q-shadow k-shadow ... router] | [gate-shadow up-shadow act down-shadow norm ...] | ...
 *                                         ids known: begin the pass, wait for the parts
 */
#include "backend/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

struct exec *fb_exec_new(void)
{
    struct exec *ex = fb_xcalloc(1, sizeof *ex);
    if (!fb_workers_init(&ex->workers)) {
        free(ex);
        return NULL;
    }
    ex->moe = fb_moe_new();
    return ex;
}

void fb_exec_free(struct exec *ex)
{
    if (ex) {
        fb_moe_free(ex->moe, fb_device.bound);
        fb_workers_release(&ex->workers);
        free(ex->run);
        free(ex->shadows);
        free(ex->order);
        free(ex->expert_order);
        free(ex);
    }
}

void fb_exec_defer(struct exec *ex, struct ggml_tensor *node)
{
    FB_ASSERT(ex->n_run < ex->cap_run);
    ex->run[ex->n_run++] = node;
}

struct ggml_tensor *fb_exec_shadow(struct exec *ex, const struct ggml_tensor *tensor)
{
    FB_ASSERT(ex->n_shadows < ex->cap_shadows);
    struct ggml_tensor *shadow = &ex->shadows[ex->n_shadows++];
    *shadow = *tensor;
    return shadow;
}

struct ggml_tensor *fb_exec_shadow_weight(
    struct exec *ex, const struct ggml_tensor *weight, const struct claim *claim, void *data)
{
    struct ggml_tensor *shadow = fb_exec_shadow(ex, weight);
    fb_form_point(&claim->form, shadow, data);
    return shadow;
}

struct ggml_tensor *fb_exec_tensor(struct exec *ex, const struct ggml_tensor *like,
    enum ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, void *data)
{
    struct ggml_tensor *t = fb_exec_shadow(ex, like);
    t->type = type;
    t->op = GGML_OP_NONE;
    t->view_src = NULL;
    t->view_offs = 0;
    t->extra = NULL;
    t->data = data;
    memset(t->src, 0, sizeof t->src);
    t->ne[0] = ne0;
    t->ne[1] = ne1;
    t->ne[2] = ne2;
    t->ne[3] = 1;
    t->nb[0] = ggml_type_size(type);
    t->nb[1] = t->nb[0] * (size_t)ne0;
    t->nb[2] = t->nb[1] * (size_t)ne1;
    t->nb[3] = t->nb[2] * (size_t)ne2;
    return t;
}

static enum ggml_status flush(struct exec *ex, struct fb_binding *b)
{
    fb_governor_compute(b->governor);
    uint64_t before = fb_now_ns();
    enum ggml_status status = fb_workers_compute(&ex->workers, ex->run, ex->n_run);
    b->compute_ns += fb_now_ns() - before;
    fb_governor_computed(b->governor);
    ex->n_run = 0;
    ex->n_shadows = 0; /* nobody points at them any more */
    return status;
}

enum ggml_status fb_exec_flush(struct exec *ex, struct fb_binding *b)
{
    enum ggml_status status = flush(ex, b);
    if (ex->ring_taken) {
        fb_stream_dense_release(b->stream);
        ex->ring_taken = false;
    }
    return status;
}

/* Nodes that a set of experts may take (batch.c), each with its weight, input, output and ids. */
#define SET_NODES 32

/* Room for the shadows of a run: a node and its weight each, and the ids of an expert node. */
static void prepare(struct exec *ex, int n_nodes)
{
    if (n_nodes + SET_NODES > ex->cap_run) {
        ex->cap_run = n_nodes + SET_NODES;
        ex->cap_shadows = 3 * n_nodes + 5 * SET_NODES;
        ex->run = fb_xrealloc(ex->run, (size_t)ex->cap_run * sizeof(struct ggml_tensor *));
        ex->shadows = fb_xrealloc(ex->shadows, (size_t)ex->cap_shadows * sizeof *ex->shadows);
    }
    if (n_nodes > ex->cap_order) {
        ex->cap_order = n_nodes;
        ex->order = fb_xrealloc(ex->order, (size_t)ex->cap_order * sizeof *ex->order);
        ex->expert_order =
            fb_xrealloc(ex->expert_order, (size_t)ex->cap_order * sizeof *ex->expert_order);
    }
    ex->n_run = 0;
    ex->n_shadows = 0;
}

static bool is_streamed(const struct fb_binding *b, const struct claim *claim)
{
    return b->weights->weights[claim->weight].group < 0 &&
           !fb_stream_is_resident(b->stream, claim->weight);
}

static struct claim *claim_of_node(const struct ggml_tensor *node)
{
    return node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID ? fb_claim_of(node->src[0])
                                                                         : NULL;
}

/* Tells the stream which streamed weights come, and in which order; and which experts' matrices. */
static void announce(struct exec *ex, struct fb_binding *b, struct ggml_cgraph *graph)
{
    int n = 0, n_experts = 0;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const struct ggml_tensor *node = ggml_graph_node(graph, i);
        struct claim *claim = claim_of_node(node);
        if (claim && b->weights->weights[claim->weight].group >= 0) {
            ex->expert_order[n_experts++] = (struct fb_expert_use){
                claim->weight, (int)node->src[2]->ne[1], (int)node->src[2]->ne[0]};
        } else if (claim && is_streamed(b, claim)) {
            ex->order[n++] = claim->weight;
        }
    }
    fb_stream_schedule_dense(b->stream, ex->order, n);
    fb_stream_schedule_experts(b->stream, ex->expert_order, n_experts);
}

/* A run over kept weights may take seconds when it has many rows. It is cut, so that memory can be
 * given back in between. (Cutting costs some 10 us; a node of that many rows takes milliseconds.) */
#define LONG_ROWS 32
#define LONG_RUN  16

static void defer_on(struct exec *ex, struct ggml_tensor *node, struct claim *claim, void *data)
{
    struct ggml_tensor *shadow = fb_exec_shadow(ex, node);
    shadow->src[0] = fb_exec_shadow_weight(ex, node->src[0], claim, data);
    fb_exec_defer(ex, shadow);
}

static enum ggml_status dense_node(
    struct exec *ex, struct fb_binding *b, struct ggml_tensor *node, struct claim *claim)
{
    bool long_run = node->ne[1] >= LONG_ROWS && ex->n_run >= LONG_RUN;
    if (fb_stream_is_resident(b->stream, claim->weight) && !long_run) {
        defer_on(ex, node, claim, fb_stream_resident(b->stream, claim->weight));
        return GGML_STATUS_SUCCESS;
    }
    enum ggml_status status = fb_exec_flush(ex, b); /* while the weight is still being read */
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    fb_stream_adapt(b->stream, true);
    if (fb_stream_is_resident(b->stream, claim->weight)) {
        defer_on(ex, node, claim, fb_stream_resident(b->stream, claim->weight));
        return GGML_STATUS_SUCCESS;
    }
    const void *data;
    struct forebay_error error;
    if (fb_stream_dense_acquire(b->stream, claim->weight, &data, &error) != FOREBAY_OK) {
        return fb_backend_fail(b, &error);
    }
    ex->ring_taken = true;
    defer_on(ex, node, claim, (void *)data);
    return fb_exec_flush(ex, b);
}

static enum ggml_status compute_node(
    struct exec *ex, struct fb_binding *b, struct ggml_tensor *node)
{
    struct claim *claim = claim_of_node(node);
    if (claim && b->weights->weights[claim->weight].group >= 0) {
        return fb_moe_node(ex, b, node, claim);
    }
    enum ggml_status status = fb_moe_complete(ex, b);
    if (status == GGML_STATUS_SUCCESS && claim) {
        return dense_node(ex, b, node, claim);
    }
    if (status == GGML_STATUS_SUCCESS) {
        fb_exec_defer(ex, node);
    }
    return status;
}

/* Between two nodes: let reads go on. */
static bool poll_stream(void *user)
{
    fb_stream_poll(user);
    return false;
}

static enum ggml_status walk(struct exec *ex, struct fb_binding *b, struct ggml_cgraph *graph)
{
    int n_nodes = ggml_graph_n_nodes(graph);
    fb_workers_set_hook(&ex->workers, poll_stream, b->stream);
    fb_stream_adapt(b->stream, true);
    announce(ex, b, graph);
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int i = 0; i < n_nodes && status == GGML_STATUS_SUCCESS; i++) {
        status = compute_node(ex, b, ggml_graph_node(graph, i));
    }
    if (status == GGML_STATUS_SUCCESS) {
        status = fb_moe_complete(ex, b);
    }
    if (status == GGML_STATUS_SUCCESS) {
        status = fb_exec_flush(ex, b);
    } else {
        ex->n_run = 0;
    }
    if (ex->ring_taken) {
        fb_stream_dense_release(b->stream);
        ex->ring_taken = false;
    }
    fb_moe_finish(ex->moe, b);
    return status;
}

enum ggml_status fb_exec_graph(struct exec *ex, struct fb_binding *b, struct ggml_cgraph *graph)
{
    int n_nodes = ggml_graph_n_nodes(graph);
    prepare(ex, n_nodes);
    if (!b || !b->stream) { /* nothing is claimed, or llama.cpp warms up before the start */
        return fb_workers_compute(&ex->workers, ggml_graph_nodes(graph), n_nodes);
    }
    uint64_t before = fb_now_ns();
    fb_governor_begin(b->governor);
    enum ggml_status status = walk(ex, b, graph);
    fb_governor_end(b->governor);
    b->graph_ns += fb_now_ns() - before;
    return status;
}
