/*
 * partial.c - expert nodes of which some experts are still being read: the rows of the others are
 * computed meanwhile.
 *
 *      begin(up) ---> begin(gate) ---> complete: what is left of up, what is left of gate
 *      its rows that  its rows that    each when its reads are over
 *      are there      are there
 *
 * Nodes that are open together have the same input, so neither waits for the other. Rows are
 * gathered into compact tensors, multiplied, and scattered. Only few rows are worth that.
 */
#include "backend/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define MAX_ROWS  64
#define MAX_NODES 2 /* open at once: the products with the layer's input, up and gate */

/* One row of the node: which token, which of its experts. */
struct row {
    int32_t token, pick;
};

/* A node of which only the experts that were in memory have been computed. */
struct partial {
    struct ggml_tensor *node;
    struct claim *claim;
    bool done[MAX_ROWS]; /* by expert of the pass, of which there are no more than rows */
};

struct partials {
    int n;
    struct partial open[MAX_NODES];
    /* The block being computed: */
    struct row rows[MAX_ROWS];
    int slots[MAX_ROWS];
    char *scratch;
    size_t scratch_bytes;
};

struct partials *fb_partials_new(void)
{
    return fb_xcalloc(1, sizeof(struct partials));
}

void fb_partials_free(struct partials *x)
{
    if (x) {
        free(x->scratch);
        free(x);
    }
}

void fb_partials_forget(struct partials *x)
{
    x->n = 0;
}

/* --- A block of rows ----------------------------------------------------------------------- */

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

/* Computes x->rows[0 .. n), whose slots are in x->slots. */
static enum ggml_status compute_block(
    struct partials *x, struct exec *ex, struct fb_binding *b, const struct partial *p, int n)
{
    struct ggml_tensor *node = p->node;
    struct block block = {.node = node, .rows = x->rows, .n = n};
    int64_t k = node->src[1]->ne[0], m = node->ne[0];
    block.input = fb_exec_tensor(ex, node, GGML_TYPE_F32, k, 1, n, x->scratch);
    block.output = fb_exec_tensor(
        ex, node, GGML_TYPE_F32, m, 1, n, x->scratch + (size_t)n * (size_t)k * sizeof(float));
    struct ggml_tensor *product = fb_exec_shadow(ex, node);
    product->data = block.output->data;
    product->view_src = NULL;
    memcpy(product->ne, block.output->ne, sizeof product->ne);
    memcpy(product->nb, block.output->nb, sizeof product->nb);
    product->src[0] = fb_moe_slots_tensor(ex, b, node->src[0], p->claim);
    product->src[1] = block.input;
    product->src[2] = fb_exec_tensor(ex, node, GGML_TYPE_I32, 1, n, 1, x->slots);

    fb_workers_reset_ops(&ex->workers);
    fb_exec_defer(ex, fb_workers_op(&ex->workers, gather, &block));
    fb_exec_defer(ex, product);
    fb_exec_defer(ex, fb_workers_op(&ex->workers, scatter, &block));
    return fb_exec_flush(ex, b);
}

/* Computes the rows of those of the pass's experts that are not done and have the part. */
static enum ggml_status compute_present(struct partials *x, struct exec *ex, struct fb_binding *b,
    const struct fb_lease *pass, struct partial *p)
{
    const struct ggml_tensor *ids = p->node->src[2];
    const struct fb_weight *w = &b->weights->weights[p->claim->weight];
    int n = 0;
    for (int i = 0; i < pass->n; i++) {
        if (p->done[i] || !fb_stream_has(b->stream, w->group, pass->experts[i], 1u << w->part)) {
            continue;
        }
        p->done[i] = true;
        for (int64_t t = 0; t < ids->ne[1]; t++) {
            for (int64_t k = 0; k < ids->ne[0]; k++) {
                if (fb_moe_id(ids, k, t) == pass->experts[i]) {
                    x->rows[n] = (struct row){(int32_t)t, (int32_t)k};
                    x->slots[n++] = pass->slots[i];
                }
            }
        }
    }
    return n > 0 ? compute_block(x, ex, b, p, n) : fb_exec_flush(ex, b);
}

/* --- Nodes --------------------------------------------------------------------------------- */

bool fb_partials_fit(const struct ggml_tensor *node)
{
    return ggml_nelements(node->src[2]) <= MAX_ROWS;
}

bool fb_partials_before(const struct partials *x, const struct ggml_tensor *node)
{
    return x->n == MAX_NODES || (x->n > 0 && node->src[1] != x->open[0].node->src[1]);
}

enum ggml_status fb_partials_begin(struct partials *x, struct exec *ex, struct fb_binding *b,
    const struct fb_lease *pass, struct ggml_tensor *node, struct claim *claim)
{
    FB_ASSERT(x->n < MAX_NODES && fb_partials_fit(node) && pass->n <= MAX_ROWS);
    struct partial *p = &x->open[x->n++];
    *p = (struct partial){.node = node, .claim = claim};
    size_t bytes = (size_t)ggml_nelements(node->src[2]) * fb_form_row_bytes(&claim->form);
    if (bytes > x->scratch_bytes) {
        free(x->scratch);
        x->scratch = fb_xmalloc(bytes);
        x->scratch_bytes = bytes;
    }
    return compute_present(x, ex, b, pass, p);
}

enum ggml_status fb_partials_complete(
    struct partials *x, struct exec *ex, struct fb_binding *b, struct fb_lease *pass)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int i = 0; i < x->n && status == GGML_STATUS_SUCCESS; i++) {
        struct partial *p = &x->open[i];
        struct forebay_error error;
        int part = b->weights->weights[p->claim->weight].part;
        status = fb_stream_lease_wait(b->stream, pass, part, &error) == FOREBAY_OK
                     ? compute_present(x, ex, b, pass, p)
                     : fb_backend_fail(b, &error);
    }
    x->n = 0;
    return status;
}
