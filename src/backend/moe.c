/*
 * moe.c - opening a layer when its ids are known, and computing its nodes together.
 *
 *      first node of a layer   queue computed ---> ids read (routing.h) ---> observer told
 *                              ---> lease begun ---> next layers guessed (lookahead.h)
 *                              ---> or batch begun
 *      each node               together: queued on slots if its part is present, else computed in
 *                              part; in sets: computed at once
 *
 * The nodes of a layer are recognised by their tensor of ids, which they share.
 */
#include "backend/moe.h"

#include <stdlib.h>

#include "backend/batch.h"
#include "backend/lookahead.h"
#include "backend/partial.h"
#include "base/error.h"

struct fb_moe {
    /* The open layer: */
    const struct ggml_tensor *ids; /* NULL: none */
    int group;
    struct fb_routing routing;
    bool in_sets;

    /* Together: */
    struct fb_lease lease;
    struct fb_partials *partials;
    int32_t *slot_ids; /* the slot of each row's expert */
    int cap_slot_ids;
    int *slot_of; /* [experts] */
    int cap_slot_of;
    struct fb_lookahead *lookahead;

    struct fb_moe_batch *batch; /* in sets */
};

struct fb_moe *fb_moe_new(void)
{
    struct fb_moe *moe = fb_xcalloc(1, sizeof *moe);
    moe->lease.group = -1;
    moe->group = -1;
    moe->partials = fb_partials_new();
    moe->batch = fb_moe_batch_new();
    moe->lookahead = fb_lookahead_new();
    return moe;
}

void fb_moe_shed(struct fb_moe *moe)
{
    FB_ASSERT(!moe->in_sets);
    fb_moe_batch_free(moe->batch);
    moe->batch = fb_moe_batch_new();
}

void fb_moe_free(struct fb_moe *moe)
{
    if (moe) {
        FB_ASSERT(moe->lease.group < 0 && !moe->ids);
        fb_routing_release(&moe->routing);
        fb_lease_clear(&moe->lease);
        fb_partials_free(moe->partials);
        fb_moe_batch_free(moe->batch);
        fb_lookahead_free(moe->lookahead);
        free(moe->slot_ids);
        free(moe->slot_of);
        free(moe);
    }
}

void fb_moe_finish(struct fb_moe *moe, struct fb_exec *ex)
{
    fb_partials_drop(moe->partials);
    if (moe->lease.group >= 0) {
        fb_stream_lease_end(ex->binding->stream, &moe->lease);
    }
    fb_stream_sets_end(ex->binding->stream);
    moe->in_sets = false;
    moe->ids = NULL;
    moe->group = -1;
}

/* --- Together ------------------------------------------------------------------------------ */

static void translate_ids(struct fb_moe *moe)
{
    const struct fb_routing *r = &moe->routing;
    int n = r->routes.tokens * r->routes.picks;
    if (n > moe->cap_slot_ids) {
        moe->cap_slot_ids = n;
        moe->slot_ids = fb_xrealloc(moe->slot_ids, (size_t)n * sizeof *moe->slot_ids);
    }
    if (r->n_expert > moe->cap_slot_of) {
        moe->cap_slot_of = r->n_expert;
        moe->slot_of = fb_xrealloc(moe->slot_of, (size_t)r->n_expert * sizeof *moe->slot_of);
    }
    for (int i = 0; i < moe->lease.n; i++) {
        moe->slot_of[moe->lease.experts[i]] = moe->lease.slots[i];
    }
    for (int i = 0; i < n; i++) {
        moe->slot_ids[i] = moe->slot_of[r->routes.experts[i]];
    }
}

enum ggml_status fb_moe_complete(struct fb_moe *moe, struct fb_exec *ex)
{
    return fb_partials_complete(moe->partials, ex, &moe->lease, &moe->routing);
}

/* Computes the queue while the part is being read, and waits for it. */
static enum ggml_status wait_for_part(struct fb_moe *moe, struct fb_exec *ex, int part)
{
    struct forebay_error error;
    enum ggml_status status = fb_exec_flush(ex);
    if (status == GGML_STATUS_SUCCESS &&
        fb_stream_lease_wait(ex->binding->stream, &moe->lease, part, &error) != FOREBAY_OK) {
        return fb_binding_fail(ex->binding, &error);
    }
    return status;
}

static enum ggml_status compute_together(struct fb_moe *moe, struct fb_exec *ex,
    struct ggml_tensor *node, const struct fb_tensor_claim *claim)
{
    int part = fb_claim_weight(ex->binding, claim)->part;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    if (fb_partials_block(moe->partials, node)) {
        status = fb_moe_complete(moe, ex);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    if (!fb_stream_lease_ready(ex->binding->stream, &moe->lease, part)) {
        if (fb_partials_fit(node)) {
            return fb_partials_begin(moe->partials, ex, &moe->lease, &moe->routing, node, claim);
        }
        status = wait_for_part(moe, ex, part);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    const struct ggml_tensor *ids = node->src[2];
    struct ggml_tensor *shadow = fb_queue_shadow(&ex->queue, node);
    shadow->src[0] = fb_exec_shadow_slots(ex, node->src[0], claim);
    shadow->src[2] =
        fb_queue_tensor(&ex->queue, ids, GGML_TYPE_I32, ids->ne[0], ids->ne[1], 1, moe->slot_ids);
    fb_queue_add(&ex->queue, shadow);
    return status;
}

/* --- A layer ------------------------------------------------------------------------------- */

/* Closes the previous layer, and reads the next one's ids, which the queue computes. */
static enum ggml_status next_layer(
    struct fb_moe *moe, struct fb_exec *ex, const struct ggml_tensor *ids, int group)
{
    enum ggml_status status = fb_moe_complete(moe, ex);
    if (status == GGML_STATUS_SUCCESS) {
        status = fb_exec_flush(ex);
    }
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    fb_moe_finish(moe, ex);
    fb_stream_adapt(ex->binding->stream, true);
    return fb_binding_read_routes(ex->binding, &moe->routing, ids, group);
}

static enum ggml_status open_layer(struct fb_moe *moe, struct fb_exec *ex,
    const struct ggml_tensor *node, const struct fb_tensor_claim *claim)
{
    struct fb_binding *b = ex->binding;
    struct fb_routing *r = &moe->routing;
    const struct ggml_tensor *ids = node->src[2];
    int g = fb_claim_weight(b, claim)->group;
    enum ggml_status status = next_layer(moe, ex, ids, g);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    moe->ids = ids;
    moe->group = g;
    if (r->n_needed == 0) {
        return GGML_STATUS_SUCCESS; /* no token's logits are wanted: the last layer has no rows */
    }
    if (!fb_stream_layer_begin(b->stream, &moe->lease, claim->weight, &r->routes)) {
        fb_moe_batch_begin(moe->batch, r);
        moe->in_sets = true;
        return GGML_STATUS_SUCCESS;
    }
    translate_ids(moe);
    fb_lookahead_step(moe->lookahead, ex, g, ids, r, moe->lease.n_misses > 0);
    return GGML_STATUS_SUCCESS;
}

enum ggml_status fb_moe_node(struct fb_moe *moe, struct fb_exec *ex, struct ggml_tensor *node,
    const struct fb_tensor_claim *claim)
{
    const struct fb_weight *w = fb_claim_weight(ex->binding, claim);
    if (moe->ids != node->src[2] || moe->group != w->group ||
        (moe->in_sets && fb_moe_batch_is_done(moe->batch, w->part))) {
        enum ggml_status status = open_layer(moe, ex, node, claim);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    if (moe->routing.n_needed == 0) {
        return GGML_STATUS_SUCCESS;
    }
    return moe->in_sets ? fb_moe_batch_node(moe->batch, ex, node, claim)
                        : compute_together(moe, ex, node, claim);
}
