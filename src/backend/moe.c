/*
 * moe.c - expert nodes (MUL_MAT_ID) computed from slots.
 *
 * The experts a node needs are known when its ids are. Two ways:
 *
 *   together   They all fit into the layer's slots (always so in decode). One pass covers the gate,
 *              up and down nodes of the layer: slots stand in for experts, slot numbers for ids.
 *              While some are being read, the rows of the others are computed: partial.c.
 *
 *                ids   [7 99 7 12]     weight  [expert 0][expert 1]...[expert 127]
 *                       |                       |
 *                slots [0  2 0  1]     shadow  [slot 0: 7][slot 1: 12][slot 2: 99]
 *
 *   in sets    A batch that needs more experts than there are slots, or that must read many:
 *              batch.c.
 */
#include "backend/internal.h"
#include "backend/lookahead.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct moe {
    /* The ids in effect: nodes of a layer share them. */
    const struct ggml_tensor *ids;
    int group;
    int n_needed;
    int *needed; /* distinct experts, in the order in which they are taken */
    int *uses;   /* rows of each, by position in `needed` */

    int n_expert;
    int *seen; /* [n_expert] rows of each expert */
    int cap_seen;
    int *routes; /* the expert of each row, token after token */
    size_t cap_routes;

    struct fb_lease pass; /* together */
    struct partials *partials;
    int32_t *slot_ids;
    size_t cap_slot_ids;
    int *slot_of; /* [n_expert] */

    struct lookahead *lookahead;
    struct batch *batch; /* in sets */
    bool in_sets;
};

struct moe *fb_moe_new(void)
{
    struct moe *moe = fb_xcalloc(1, sizeof *moe);
    moe->pass.group = -1;
    moe->group = -1;
    moe->partials = fb_partials_new();
    moe->batch = fb_moe_batch_new();
    moe->lookahead = fb_lookahead_new();
    return moe;
}

void fb_moe_finish(struct moe *moe, struct fb_binding *b)
{
    fb_partials_forget(moe->partials);
    if (moe->pass.group >= 0) {
        fb_stream_lease_end(b->stream, &moe->pass);
    }
    fb_stream_sets_end(b->stream);
    moe->in_sets = false;
    moe->ids = NULL;
    moe->group = -1;
}

void fb_moe_free(struct moe *moe, struct fb_binding *b)
{
    if (!moe) {
        return;
    }
    if (b && b->stream) {
        fb_moe_finish(moe, b);
    }
    fb_lease_clear(&moe->pass);
    fb_partials_free(moe->partials);
    fb_moe_batch_free(moe->batch);
    fb_lookahead_free(moe->lookahead);
    free(moe->needed);
    free(moe->uses);
    free(moe->seen);
    free(moe->routes);
    free(moe->slot_ids);
    free(moe->slot_of);
    free(moe);
}

/* --- What the node needs ------------------------------------------------------------------- */

static void reserve_experts(struct moe *moe, int n_expert)
{
    if (n_expert > moe->cap_seen) {
        moe->cap_seen = n_expert;
        size_t n = (size_t)n_expert;
        free(moe->seen);
        moe->seen = fb_xcalloc(n, sizeof *moe->seen);
        moe->needed = fb_xrealloc(moe->needed, n * sizeof *moe->needed);
        moe->uses = fb_xrealloc(moe->uses, n * sizeof *moe->uses);
        moe->slot_of = fb_xrealloc(moe->slot_of, n * sizeof *moe->slot_of);
    }
}

/* Counts the rows of each expert. */
static enum ggml_status survey(
    struct moe *moe, struct fb_binding *b, const struct ggml_tensor *ids, int n_expert)
{
    int64_t n_pick = ids->ne[0], n_token = ids->ne[1];
    size_t n = 0;
    reserve_experts(moe, n_expert);
    if ((size_t)(n_pick * n_token) > moe->cap_routes) {
        moe->cap_routes = (size_t)(n_pick * n_token);
        moe->routes = fb_xrealloc(moe->routes, moe->cap_routes * sizeof *moe->routes);
    }
    memset(moe->seen, 0, (size_t)n_expert * sizeof *moe->seen);
    for (int64_t t = 0; t < n_token; t++) {
        for (int64_t k = 0; k < n_pick; k++) {
            int expert = fb_moe_id(ids, k, t);
            if (expert < 0 || expert >= n_expert) {
                struct forebay_error error;
                fb_fail(&error, FOREBAY_E_LLAMA, "The model file may be damaged.",
                    "the router chose expert %d of %d", expert, n_expert);
                return fb_backend_fail(b, &error);
            }
            moe->seen[expert]++;
            moe->routes[n++] = expert;
        }
    }
    moe->n_expert = n_expert;
    return GGML_STATUS_SUCCESS;
}

/* Tells the observer what each row needs; `needed` is not in use yet. */
static void report_routes(
    struct moe *moe, struct fb_binding *b, const struct ggml_tensor *ids, int group)
{
    int n = (int)ids->ne[0];
    FB_ASSERT(n <= moe->n_expert);
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        for (int k = 0; k < n; k++) {
            moe->needed[k] = fb_moe_id(ids, k, t);
        }
        b->observe(b->observe_user, group, moe->needed, n);
    }
}

/* Lists the distinct experts by number. */
static void list_needed(struct moe *moe)
{
    moe->n_needed = 0;
    for (int e = 0; e < moe->n_expert; e++) {
        if (moe->seen[e]) {
            moe->uses[moe->n_needed] = moe->seen[e];
            moe->needed[moe->n_needed++] = e;
        }
    }
}

/* --- Together ------------------------------------------------------------------------------ */

struct ggml_tensor *fb_moe_slots_tensor(struct exec *ex, struct fb_binding *b,
    const struct ggml_tensor *weight, const struct claim *claim)
{
    uint64_t stride;
    int n_slots;
    void *base = fb_stream_slots(b->stream, claim->weight, &stride, &n_slots);
    struct ggml_tensor *shadow = fb_exec_shadow_weight(ex, weight, claim, base);
    shadow->ne[2] = n_slots;
    shadow->nb[2] = stride;
    shadow->nb[3] = stride * (size_t)n_slots;
    return shadow;
}

static void translate_ids(struct moe *moe, const struct ggml_tensor *ids)
{
    size_t n = (size_t)(ids->ne[0] * ids->ne[1]);
    if (n > moe->cap_slot_ids) {
        moe->cap_slot_ids = n;
        moe->slot_ids = fb_xrealloc(moe->slot_ids, n * sizeof *moe->slot_ids);
    }
    for (int i = 0; i < moe->pass.n; i++) {
        moe->slot_of[moe->pass.experts[i]] = moe->pass.slots[i];
    }
    int32_t *out = moe->slot_ids;
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        for (int64_t k = 0; k < ids->ne[0]; k++) {
            *out++ = moe->slot_of[fb_moe_id(ids, k, t)];
        }
    }
}

enum ggml_status fb_moe_complete(struct exec *ex, struct fb_binding *b)
{
    return fb_partials_complete(ex->moe->partials, ex, b, &ex->moe->pass);
}

static enum ggml_status compute_together(
    struct exec *ex, struct fb_binding *b, struct ggml_tensor *node, struct claim *claim)
{
    struct moe *moe = ex->moe;
    int part = b->weights->weights[claim->weight].part;
    if (fb_partials_before(moe->partials, node)) {
        enum ggml_status status = fb_moe_complete(ex, b);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    bool ready = fb_stream_lease_ready(b->stream, &moe->pass, part);
    if (!ready && fb_partials_fit(node)) {
        return fb_partials_begin(moe->partials, ex, b, &moe->pass, node, claim);
    }
    if (!ready) {
        enum ggml_status status = fb_exec_flush(ex, b);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
        struct forebay_error error;
        if (fb_stream_lease_wait(b->stream, &moe->pass, part, &error) != FOREBAY_OK) {
            return fb_backend_fail(b, &error);
        }
    }
    const struct ggml_tensor *ids = node->src[2];
    struct ggml_tensor *shadow = fb_exec_shadow(ex, node);
    shadow->src[0] = fb_moe_slots_tensor(ex, b, node->src[0], claim);
    shadow->src[2] =
        fb_exec_tensor(ex, ids, GGML_TYPE_I32, ids->ne[0], ids->ne[1], 1, moe->slot_ids);
    fb_exec_defer(ex, shadow);
    return GGML_STATUS_SUCCESS;
}

/* --- A node -------------------------------------------------------------------------------- */

/* Begins with new ids: opens a pass for all parts of the layer. */
static enum ggml_status new_ids(
    struct exec *ex, struct fb_binding *b, struct ggml_tensor *node, const struct fb_weight *w)
{
    struct moe *moe = ex->moe;
    const struct fb_group *group = &b->weights->groups[w->group];
    enum ggml_status status = fb_moe_complete(ex, b);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    status = fb_exec_flush(ex, b); /* the ids are a result; pins may go */
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    fb_moe_finish(moe, b);
    fb_stream_adapt(b->stream, true);
    status = survey(moe, b, node->src[2], group->n_expert);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    if (b->observe) {
        report_routes(moe, b, node->src[2], w->group);
    }
    list_needed(moe);
    moe->ids = node->src[2];
    moe->group = w->group;
    if (moe->n_needed == 0) {
        return GGML_STATUS_SUCCESS; /* no token's logits are wanted: the last layer has no rows */
    }
    const struct fb_routes routes = {.experts = moe->routes,
        .tokens = (int)node->src[2]->ne[1],
        .picks = (int)node->src[2]->ne[0],
        .needed = moe->needed,
        .uses = moe->uses,
        .n_needed = moe->n_needed};
    int weight = (int)(w - b->weights->weights);
    if (!fb_stream_layer_begin(b->stream, &moe->pass, weight, &routes)) {
        fb_moe_batch_begin(moe->batch, b, node);
        moe->in_sets = true;
        return GGML_STATUS_SUCCESS;
    }
    translate_ids(moe, node->src[2]);
    fb_lookahead_step(
        moe->lookahead, ex, b, w->group, node->src[2], moe->seen, moe->pass.n_misses > 0);
    return GGML_STATUS_SUCCESS;
}

enum ggml_status fb_moe_node(
    struct exec *ex, struct fb_binding *b, struct ggml_tensor *node, struct claim *claim)
{
    struct moe *moe = ex->moe;
    const struct fb_weight *w = &b->weights->weights[claim->weight];
    if (moe->ids != node->src[2] || moe->group != w->group ||
        (moe->in_sets && fb_moe_batch_had(moe->batch, w->part))) {
        enum ggml_status status = new_ids(ex, b, node, w);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    if (moe->n_needed == 0) {
        return GGML_STATUS_SUCCESS;
    }
    return moe->in_sets ? fb_moe_batch_node(moe->batch, ex, b, node, claim)
                        : compute_together(ex, b, node, claim);
}
