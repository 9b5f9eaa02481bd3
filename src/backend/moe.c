/*
 * moe.c - expert nodes (MUL_MAT_ID) computed from slots.
 *
 * The experts a node needs are known when its ids are. Two ways:
 *
 *   together   They all fit into the layer's slots (always so in decode). One pass covers the gate,
 *              up and down nodes of the layer: slots stand in for experts, slot numbers for ids.
 *              While some are being read, the rows of the others are computed: first of up and of
 *              gate, which need the same input, then what is left of both.
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
#include "base/units.h"

#define SCRATCH_ROWS 64 /* there is always room for so many rows */

/* One row of the node: which token, which of its experts. */
struct row {
    int32_t token, pick;
};

/* A node of which only the experts that were in memory have been computed. */
struct partial {
    struct ggml_tensor *node;
    struct claim *claim;
    bool *done; /* [pass[0].n] */
    int cap;
};

/* Nodes of a layer that may be partial at once: the products with the layer's input, up and gate. */
#define MAX_PARTIAL 2

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
    struct row *picked; /* rows of the block being computed */
    int *picked_slots;
    int cap_picked;
    struct partial partial[MAX_PARTIAL];
    int n_partial;

    struct st_pass pass; /* together */
    int32_t *slot_ids;
    size_t cap_slot_ids;
    int *slot_of; /* [n_expert] */

    char *scratch;
    size_t scratch_bytes;
    struct lookahead *lookahead;
    struct batch *batch; /* in sets */
    bool in_sets;
};

struct moe *st_moe_new(void)
{
    struct moe *moe = st_xcalloc(1, sizeof *moe);
    moe->pass.group = -1;
    moe->batch = st_moe_batch_new();
    moe->group = -1;
    moe->lookahead = st_lookahead_new();
    return moe;
}

void st_moe_finish(struct moe *moe, struct st_binding *b)
{
    moe->n_partial = 0;
    if (moe->pass.group >= 0) {
        st_stream_end(b->stream, &moe->pass);
    }
    st_stream_batch_end(b->stream);
    moe->in_sets = false;
    moe->ids = NULL;
    moe->group = -1;
}

void st_moe_free(struct moe *moe, struct st_binding *b)
{
    if (!moe) {
        return;
    }
    if (b && b->stream) {
        st_moe_finish(moe, b);
    }
    st_pass_release(&moe->pass);
    st_moe_batch_free(moe->batch);
    st_lookahead_free(moe->lookahead);
    free(moe->needed);
    free(moe->uses);
    free(moe->seen);
    free(moe->picked);
    free(moe->picked_slots);
    for (int i = 0; i < MAX_PARTIAL; i++) {
        free(moe->partial[i].done);
    }
    free(moe->slot_ids);
    free(moe->slot_of);
    free(moe->scratch);
    free(moe);
}

static uint64_t row_bytes(const struct claim *claim)
{
    return (uint64_t)(claim->unit_ne[0] + claim->unit_ne[1]) * sizeof(float);
}

/* --- What the node needs ------------------------------------------------------------------- */

static void reserve_experts(struct moe *moe, int n_expert)
{
    if (n_expert > moe->cap_seen) {
        moe->cap_seen = n_expert;
        size_t n = (size_t)n_expert;
        free(moe->seen);
        moe->seen = st_xcalloc(n, sizeof *moe->seen);
        moe->needed = st_xrealloc(moe->needed, n * sizeof *moe->needed);
        moe->uses = st_xrealloc(moe->uses, n * sizeof *moe->uses);
        moe->slot_of = st_xrealloc(moe->slot_of, n * sizeof *moe->slot_of);
    }
}

/* Counts the rows of each expert. */
static enum ggml_status survey(
    struct moe *moe, struct st_binding *b, const struct ggml_tensor *ids, int n_expert)
{
    int64_t n_pick = ids->ne[0], n_token = ids->ne[1];
    reserve_experts(moe, n_expert);
    memset(moe->seen, 0, (size_t)n_expert * sizeof *moe->seen);
    for (int64_t t = 0; t < n_token; t++) {
        for (int64_t k = 0; k < n_pick; k++) {
            int expert = st_moe_id(ids, k, t);
            if (expert < 0 || expert >= n_expert) {
                struct strata_error error;
                st_fail(&error, STRATA_E_LLAMA, "The model file may be damaged.",
                    "the router chose expert %d of %d", expert, n_expert);
                return st_backend_fail(b, &error);
            }
            moe->seen[expert]++;
        }
    }
    moe->n_expert = n_expert;
    return GGML_STATUS_SUCCESS;
}

/* Tells the observer what each row needs; `needed` is not in use yet. */
static void report_routes(
    struct moe *moe, struct st_binding *b, const struct ggml_tensor *ids, int group)
{
    int n = (int)ids->ne[0];
    ST_ASSERT(n <= moe->n_expert);
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        for (int k = 0; k < n; k++) {
            moe->needed[k] = st_moe_id(ids, k, t);
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

/* --- Shadows ------------------------------------------------------------------------------- */

/* The weight as a stack of slots. */
static struct ggml_tensor *slots_tensor(
    struct exec *ex, struct st_binding *b, const struct ggml_tensor *weight, struct claim *claim)
{
    uint64_t stride;
    int n_slots;
    void *base = st_stream_slots(b->stream, claim->weight, &stride, &n_slots);
    struct ggml_tensor *shadow = st_exec_shadow_weight(ex, weight, claim, base);
    shadow->ne[2] = n_slots;
    shadow->nb[2] = stride;
    shadow->nb[3] = stride * (size_t)n_slots;
    return shadow;
}

static int32_t *slot_ids(struct moe *moe, size_t n)
{
    if (n > moe->cap_slot_ids) {
        moe->cap_slot_ids = n;
        moe->slot_ids = st_xrealloc(moe->slot_ids, n * sizeof *moe->slot_ids);
    }
    return moe->slot_ids;
}

static void note_slots(struct moe *moe, const struct st_pass *pass)
{
    for (int i = 0; i < pass->n; i++) {
        moe->slot_of[pass->experts[i]] = pass->slots[i];
    }
}

/* --- Some rows ----------------------------------------------------------------------------- */

/* Some rows of the node, gathered to and scattered from compact tensors. */
struct block {
    const struct ggml_tensor *node;
    const struct row *rows;
    int n;
    struct ggml_tensor *input, *output;
};

static void gather(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct block *block = user;
    const struct ggml_tensor *from = block->node->src[1];
    (void)dst;
    for (int i = ith; i < block->n; i += nth) {
        struct row r = block->rows[i];
        memcpy((char *)block->input->data + (size_t)i * block->input->nb[2],
            (const char *)from->data + (size_t)(r.pick % from->ne[1]) * from->nb[1] +
                (size_t)r.token * from->nb[2],
            block->input->nb[1]);
    }
}

static void scatter(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct block *block = user;
    const struct ggml_tensor *to = block->node;
    (void)dst;
    for (int i = ith; i < block->n; i += nth) {
        struct row r = block->rows[i];
        memcpy((char *)to->data + (size_t)r.pick * to->nb[1] + (size_t)r.token * to->nb[2],
            (const char *)block->output->data + (size_t)i * block->output->nb[2],
            block->output->nb[1]);
    }
}

/* Computes moe->picked[0 .. n), whose slots are in moe->picked_slots. */
static enum ggml_status compute_block(
    struct exec *ex, struct st_binding *b, struct ggml_tensor *node, struct claim *claim, int n)
{
    struct moe *moe = ex->moe;
    struct block block = {.node = node, .rows = moe->picked, .n = n};
    int64_t k = node->src[1]->ne[0], m = node->ne[0];
    block.input = st_exec_tensor(ex, node, GGML_TYPE_F32, k, 1, n, moe->scratch);
    block.output = st_exec_tensor(
        ex, node, GGML_TYPE_F32, m, 1, n, moe->scratch + (size_t)n * (size_t)k * sizeof(float));
    struct ggml_tensor *product = st_exec_shadow(ex, node);
    product->data = block.output->data;
    product->view_src = NULL;
    memcpy(product->ne, block.output->ne, sizeof product->ne);
    memcpy(product->nb, block.output->nb, sizeof product->nb);
    product->src[0] = slots_tensor(ex, b, node->src[0], claim);
    product->src[1] = block.input;
    product->src[2] = st_exec_tensor(ex, node, GGML_TYPE_I32, 1, n, 1, moe->picked_slots);

    st_workers_reset_ops(&ex->workers);
    st_exec_defer(ex, st_workers_op(&ex->workers, gather, &block));
    st_exec_defer(ex, product);
    st_exec_defer(ex, st_workers_op(&ex->workers, scatter, &block));
    return st_exec_flush(ex, b);
}

static int max_rows(const struct claim *claim)
{
    return (int)st_max(SCRATCH_ROWS, st_moe_block_bytes / row_bytes(claim));
}

/* Memory for the largest block of the node: all its rows, or as many as scratch allows. */
static void reserve_block(struct moe *moe, const struct claim *claim, int n_rows)
{
    int n = n_rows < max_rows(claim) ? n_rows : max_rows(claim);
    size_t bytes = (size_t)n * row_bytes(claim);
    if (bytes > moe->scratch_bytes) {
        free(moe->scratch);
        moe->scratch = st_xmalloc(bytes);
        moe->scratch_bytes = bytes;
    }
    if (n > moe->cap_picked) {
        moe->cap_picked = n;
        moe->picked = st_xrealloc(moe->picked, (size_t)n * sizeof *moe->picked);
        moe->picked_slots = st_xrealloc(moe->picked_slots, (size_t)n * sizeof *moe->picked_slots);
    }
}

/* --- Together ------------------------------------------------------------------------------ */

static void translate_ids(struct moe *moe, const struct ggml_tensor *ids)
{
    int32_t *out = slot_ids(moe, (size_t)(ids->ne[0] * ids->ne[1]));
    note_slots(moe, &moe->pass);
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        for (int64_t k = 0; k < ids->ne[0]; k++) {
            *out++ = moe->slot_of[st_moe_id(ids, k, t)];
        }
    }
}

/* Computes the rows of those of the pass's experts that are not done and have the part. */
static enum ggml_status compute_present(
    struct exec *ex, struct st_binding *b, const struct partial *p)
{
    struct moe *moe = ex->moe;
    const struct st_pass *pass = &moe->pass;
    const struct ggml_tensor *ids = p->node->src[2];
    const struct st_weight *w = &b->weights->weights[p->claim->weight];
    int n = 0;
    for (int i = 0; i < pass->n; i++) {
        if (p->done[i] || !st_stream_has(b->stream, w->group, pass->experts[i], 1u << w->part)) {
            continue;
        }
        p->done[i] = true;
        for (int64_t t = 0; t < ids->ne[1]; t++) {
            for (int64_t k = 0; k < ids->ne[0]; k++) {
                if (st_moe_id(ids, k, t) == pass->experts[i]) {
                    moe->picked[n] = (struct row){(int32_t)t, (int32_t)k};
                    moe->picked_slots[n++] = pass->slots[i];
                }
            }
        }
    }
    return n > 0 ? compute_block(ex, b, p->node, p->claim, n) : st_exec_flush(ex, b);
}

/* Some of the node's experts are still being read: computes the others meanwhile. */
static enum ggml_status begin_partial(
    struct exec *ex, struct st_binding *b, struct ggml_tensor *node, struct claim *claim)
{
    struct moe *moe = ex->moe;
    struct partial *p = &moe->partial[moe->n_partial++];
    p->node = node;
    p->claim = claim;
    if (moe->pass.n > p->cap) {
        p->cap = moe->pass.n;
        p->done = st_xrealloc(p->done, (size_t)p->cap * sizeof *p->done);
    }
    memset(p->done, 0, (size_t)moe->pass.n * sizeof *p->done);
    reserve_block(moe, claim, (int)(node->src[2]->ne[0] * node->src[2]->ne[1]));
    return compute_present(ex, b, p);
}

enum ggml_status st_moe_complete(struct exec *ex, struct st_binding *b)
{
    struct moe *moe = ex->moe;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int i = 0; i < moe->n_partial && status == GGML_STATUS_SUCCESS; i++) {
        const struct partial *p = &moe->partial[i];
        struct strata_error error;
        int part = b->weights->weights[p->claim->weight].part;
        if (st_stream_wait(b->stream, &moe->pass, part, &error) != STRATA_OK) {
            moe->n_partial = 0;
            return st_backend_fail(b, &error);
        }
        status = compute_present(ex, b, p);
    }
    moe->n_partial = 0;
    return status;
}

static enum ggml_status compute_together(
    struct exec *ex, struct st_binding *b, struct ggml_tensor *node, struct claim *claim)
{
    struct moe *moe = ex->moe;
    int part = b->weights->weights[claim->weight].part;
    bool dependent = moe->n_partial > 0 && node->src[1] != moe->partial[0].node->src[1];
    if (dependent || moe->n_partial == MAX_PARTIAL) {
        enum ggml_status status = st_moe_complete(ex, b);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    bool ready = st_stream_ready(b->stream, &moe->pass, part);
    if (!ready && ggml_nelements(node->src[2]) <= SCRATCH_ROWS) {
        return begin_partial(ex, b, node, claim);
    }
    if (!ready) { /* many rows: not worth gathering */
        enum ggml_status status = st_exec_flush(ex, b);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
        struct strata_error error;
        if (st_stream_wait(b->stream, &moe->pass, part, &error) != STRATA_OK) {
            return st_backend_fail(b, &error);
        }
    }
    const struct ggml_tensor *ids = node->src[2];
    struct ggml_tensor *shadow = st_exec_shadow(ex, node);
    shadow->src[0] = slots_tensor(ex, b, node->src[0], claim);
    shadow->src[2] =
        st_exec_tensor(ex, ids, GGML_TYPE_I32, ids->ne[0], ids->ne[1], 1, moe->slot_ids);
    st_exec_defer(ex, shadow);
    return GGML_STATUS_SUCCESS;
}

/* --- A node -------------------------------------------------------------------------------- */

/* Begins with new ids: opens a pass for all parts of the layer. */
static enum ggml_status new_ids(
    struct exec *ex, struct st_binding *b, struct ggml_tensor *node, const struct st_weight *w)
{
    struct moe *moe = ex->moe;
    const struct st_group *group = &b->weights->groups[w->group];
    enum ggml_status status = st_moe_complete(ex, b);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    status = st_exec_flush(ex, b); /* the ids are a result; pins may go */
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    st_moe_finish(moe, b);
    st_stream_adapt(b->stream, true);
    uint32_t all = (1u << group->n_parts) - 1;
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
    if (st_stream_wants_sets(
            b->stream, w->group, moe->needed, moe->n_needed, (int)node->src[2]->ne[1])) {
        st_moe_batch_begin(moe->batch, b, node);
        moe->in_sets = true;
        return GGML_STATUS_SUCCESS;
    }
    struct strata_error error;
    if (st_stream_begin(b->stream, &moe->pass, w->group, moe->needed, moe->uses, moe->n_needed, all,
            &error) != STRATA_OK) {
        return st_backend_fail(b, &error);
    }
    translate_ids(moe, node->src[2]);
    st_lookahead_step(
        moe->lookahead, ex, b, w->group, node->src[2], moe->seen, moe->pass.n_misses > 0);
    return GGML_STATUS_SUCCESS;
}

enum ggml_status st_moe_node(
    struct exec *ex, struct st_binding *b, struct ggml_tensor *node, struct claim *claim)
{
    struct moe *moe = ex->moe;
    const struct st_weight *w = &b->weights->weights[claim->weight];
    if (moe->ids != node->src[2] || moe->group != w->group ||
        (moe->in_sets && st_moe_batch_had(moe->batch, w->part))) {
        enum ggml_status status = new_ids(ex, b, node, w);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    if (moe->n_needed == 0) {
        return GGML_STATUS_SUCCESS;
    }
    return moe->in_sets ? st_moe_batch_node(moe->batch, ex, b, node, claim)
                        : compute_together(ex, b, node, claim);
}
