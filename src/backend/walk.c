/*
 * walk.c - one pass over the nodes of a graph.
 *
 *      node without a weight of ours   queued as it is
 *      on a resident weight            queued on a shadow
 *      on a streamed weight            queue computed while the weight is read ---> weight acquired
 *                                      ---> node computed ---> weight released
 *      on experts                      moe.h
 *
 * Before the first node the stream is told which streamed weights and experts the graph uses, in
 * which order, so that it can read ahead of the walk.
 */
#include "backend/walk.h"

#include <stdlib.h>

#include "backend/memory_watch.h"
#include "backend/batch.h"
#include "backend/moe.h"
#include "base/error.h"
#include "base/units.h"
#include "stream/transit.h"

struct fb_walk *fb_walk_new(void)
{
    struct fb_walk *walk = fb_xcalloc(1, sizeof *walk);
    if (!fb_exec_init(&walk->exec)) {
        free(walk);
        return NULL;
    }
    walk->moe = fb_moe_new();
    return walk;
}

void fb_walk_free(struct fb_walk *walk)
{
    if (walk) {
        if (walk->exec.binding) { /* an exception of llama.cpp's left a graph half computed */
            fb_exec_drop(&walk->exec);
            fb_moe_finish(walk->moe, &walk->exec);
            fb_memory_watch_graph_end(walk->exec.binding->memory_watch);
        }
        fb_moe_free(walk->moe);
        fb_exec_release(&walk->exec);
        free(walk->dense_order);
        free(walk->expert_order);
        free(walk);
    }
}

/* --- The order of use ----------------------------------------------------------------------- */

static struct fb_tensor_claim *claim_of_node(const struct ggml_tensor *node)
{
    return node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID ? fb_claim_of(node->src[0])
                                                                         : NULL;
}

static bool is_expert(const struct fb_binding *b, const struct fb_tensor_claim *claim)
{
    return fb_claim_weight(b, claim)->group >= 0;
}

static void reserve_order(struct fb_walk *walk, int n_nodes)
{
    if (n_nodes > walk->cap_order) {
        size_t n = (size_t)n_nodes;
        walk->cap_order = n_nodes;
        walk->dense_order = fb_xrealloc(walk->dense_order, n * sizeof *walk->dense_order);
        walk->expert_order = fb_xrealloc(walk->expert_order, n * sizeof *walk->expert_order);
    }
}

/* Tells the stream the order in which the graph uses streamed dense weights and experts. */
static void schedule(struct fb_walk *walk, const struct fb_binding *b, struct ggml_cgraph *graph)
{
    int n_dense = 0, n_experts = 0;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const struct ggml_tensor *node = ggml_graph_node(graph, i);
        const struct fb_tensor_claim *claim = claim_of_node(node);
        if (claim && is_expert(b, claim)) {
            walk->expert_order[n_experts++] = (struct fb_expert_use){
                claim->weight, (int)node->src[2]->ne[1], (int)node->src[2]->ne[0]};
        } else if (claim && !fb_stream_is_resident(b->stream, claim->weight)) {
            walk->dense_order[n_dense++] = claim->weight;
        }
    }
    fb_stream_schedule_dense(b->stream, walk->dense_order, n_dense);
    fb_stream_schedule_experts(b->stream, walk->expert_order, n_experts);
}

/* --- Nodes ---------------------------------------------------------------------------------- */

/* A queue over resident weights may take seconds when it has many rows. It is cut, so that memory
 * can be given back in between. (Cutting costs some 10 us; a node of that many rows takes
 * milliseconds.) */
#define LONG_ROWS  32
#define LONG_QUEUE 16

static void queue_on(struct fb_exec *ex, const struct ggml_tensor *node,
    const struct fb_tensor_claim *claim, void *data)
{
    struct ggml_tensor *shadow = fb_queue_shadow(&ex->queue, node);
    shadow->src[0] = fb_queue_shadow_weight(&ex->queue, node->src[0], &claim->form, data);
    fb_queue_add(&ex->queue, shadow);
}

static enum ggml_status dense_node(
    struct fb_exec *ex, const struct ggml_tensor *node, const struct fb_tensor_claim *claim)
{
    struct fb_stream *stream = ex->binding->stream;
    bool cut = node->ne[1] >= LONG_ROWS && ex->queue.n_nodes >= LONG_QUEUE;
    if (fb_stream_is_resident(stream, claim->weight) && !cut) {
        queue_on(ex, node, claim, fb_stream_resident(stream, claim->weight));
        return GGML_STATUS_SUCCESS;
    }
    enum ggml_status status = fb_exec_flush(ex); /* while the weight is still being read */
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    fb_stream_adapt(stream, true);
    if (fb_stream_is_resident(stream, claim->weight)) {
        queue_on(ex, node, claim, fb_stream_resident(stream, claim->weight));
        return GGML_STATUS_SUCCESS;
    }
    const void *data;
    struct forebay_error error;
    if (fb_stream_dense_acquire(stream, claim->weight, &data, &error) != FOREBAY_OK) {
        return fb_binding_fail(ex->binding, &error);
    }
    ex->holds_streamed = true;
    queue_on(ex, node, claim, (void *)data);
    return fb_exec_flush(ex);
}

static enum ggml_status compute_node(struct fb_walk *walk, struct ggml_tensor *node)
{
    struct fb_exec *ex = &walk->exec;
    const struct fb_tensor_claim *claim = claim_of_node(node);
    if (claim && is_expert(ex->binding, claim)) {
        return fb_moe_node(walk->moe, ex, node, claim);
    }
    enum ggml_status status = fb_moe_complete(walk->moe, ex);
    if (status == GGML_STATUS_SUCCESS && claim) {
        return dense_node(ex, node, claim);
    }
    if (status == GGML_STATUS_SUCCESS) {
        fb_queue_add(&ex->queue, node);
    }
    return status;
}

/* --- The graph ------------------------------------------------------------------------------ */

/* Between two nodes: lets reads make progress. */
static bool poll_stream(void *user)
{
    fb_stream_poll(user);
    return false;
}

static enum ggml_status compute_nodes(struct fb_walk *walk, struct ggml_cgraph *graph)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int i = 0; i < ggml_graph_n_nodes(graph) && status == GGML_STATUS_SUCCESS; i++) {
        status = compute_node(walk, ggml_graph_node(graph, i));
    }
    if (status == GGML_STATUS_SUCCESS) {
        status = fb_moe_complete(walk->moe, &walk->exec);
    }
    return status == GGML_STATUS_SUCCESS ? fb_exec_flush(&walk->exec) : status;
}

/* Has the stream lend the memory that the graph takes beyond what is planned for. */
static void lend(struct fb_walk *walk, struct fb_binding *b, struct ggml_cgraph *graph)
{
    struct fb_lending *l = &b->lending;
    if (!l->enabled) {
        return;
    }
    if (l->returned) {
        fb_moe_shed(walk->moe);
        l->returned = false;
    }
    fb_stream_lend(b->stream, fb_lending_count(l, graph) +
                                  fb_moe_batch_bytes(b, b->ctx, l->most_tokens) -
                                  fb_moe_batch_bytes(b, b->ctx, l->rows));
}

static enum ggml_status compute_streamed(struct fb_walk *walk, struct ggml_cgraph *graph)
{
    struct fb_exec *ex = &walk->exec;
    struct fb_stream *stream = ex->binding->stream;
    fb_workers_set_hook(&ex->workers, poll_stream, stream);
    lend(walk, ex->binding, graph);
    fb_stream_adapt(stream, true);
    reserve_order(walk, ggml_graph_n_nodes(graph));
    schedule(walk, ex->binding, graph);
    enum ggml_status status = compute_nodes(walk, graph);
    fb_exec_drop(ex);
    fb_moe_finish(walk->moe, ex);
    return status;
}

enum ggml_status fb_walk_graph(
    struct fb_walk *walk, struct fb_binding *b, struct ggml_cgraph *graph)
{
    struct fb_exec *ex = &walk->exec;
    int n_nodes = ggml_graph_n_nodes(graph);
    if (!b || !b->stream) { /* not our model, or llama.cpp warms up before the start */
        return fb_workers_compute(&ex->workers, ggml_graph_nodes(graph), n_nodes);
    }
    uint64_t before = fb_now_ns();
    ex->binding = b;
    fb_queue_reserve(&ex->queue, n_nodes);
    fb_memory_watch_graph_begin(b->memory_watch);
    enum ggml_status status = compute_streamed(walk, graph);
    fb_memory_watch_graph_end(b->memory_watch);
    ex->binding = NULL;
    b->graph_ns += fb_now_ns() - before;
    return status;
}
