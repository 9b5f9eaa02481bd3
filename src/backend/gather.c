/*
 * gather.c - a block is three kinds of nodes: one custom operation that copies all input rows, the
 * products, and one that copies all output rows. What to copy is listed when a product is added.
 *
 *      scratch   [inputs | outputs] [inputs | outputs] ... of one product after the other
 */
#include "backend/gather.h"

#include <stdlib.h>
#include <string.h>

#include "backend/device_state.h"
#include "base/error.h"
#include "base/units.h"

void fb_gather_release(struct fb_gather *g)
{
    free(g->gather.list);
    free(g->scatter.list);
    free(g->ids);
    free(g->scratch);
    *g = (struct fb_gather){0};
}

uint64_t fb_gather_block_bytes(const struct fb_form *form)
{
    return fb_max(fb_device.block_bytes, FB_GATHER_MIN_ROWS * fb_form_row_bytes(form));
}

static void reserve(struct fb_gather *g, int n_rows, int picks)
{
    if (n_rows <= g->cap_rows && picks <= g->cap_picks) {
        return;
    }
    g->cap_rows = n_rows > g->cap_rows ? n_rows : g->cap_rows;
    g->cap_picks = picks > g->cap_picks ? picks : g->cap_picks;
    size_t n = (size_t)g->cap_rows;
    size_t padded = n + FB_GATHER_MAX_PRODUCTS * FB_GATHER_MAX_FOLD * (size_t)g->cap_picks;
    g->gather.list = fb_xrealloc(g->gather.list, padded * sizeof *g->gather.list);
    g->scatter.list = fb_xrealloc(g->scatter.list, n * sizeof *g->scatter.list);
    g->ids = fb_xrealloc(g->ids, padded * sizeof *g->ids);
}

static void reserve_scratch(struct fb_gather *g, const struct fb_form *form)
{
    uint64_t rows = (uint64_t)g->cap_rows + FB_GATHER_MAX_PRODUCTS * FB_GATHER_MAX_FOLD;
    uint64_t bytes = fb_min(fb_gather_block_bytes(form), rows * fb_form_row_bytes(form));
    if (g->scratch_bytes < bytes) {
        free(g->scratch);
        g->scratch = fb_xmalloc(bytes);
        g->scratch_bytes = bytes;
    }
}

static void empty(struct fb_gather *g)
{
    g->gather.n = g->scatter.n = g->n_ids = g->n_products = 0;
    g->used = 0;
}

void fb_gather_begin(struct fb_gather *g, struct ggml_tensor *node, const struct fb_form *form,
    int n_rows, int picks)
{
    g->node = node;
    g->gather.bytes = (size_t)node->src[1]->ne[0] * sizeof(float);
    g->scatter.bytes = (size_t)node->ne[0] * sizeof(float);
    reserve(g, n_rows, picks);
    reserve_scratch(g, form);
    empty(g);
}

int fb_gather_room(const struct fb_gather *g, int picks)
{
    size_t token_bytes = g->gather.bytes + (size_t)picks * g->scatter.bytes;
    return g->n_products == FB_GATHER_MAX_PRODUCTS
               ? 0
               : (int)((g->scratch_bytes - g->used) / token_bytes);
}

/* Lists the copies of a product and its ids. */
static void list_copies(struct fb_gather *g, const struct fb_expert_row *rows, int n, int picks,
    int fold, int32_t *ids, char *input, char *output)
{
    const struct ggml_tensor *from = g->node->src[1], *to = g->node;
    int padded = (n + fold - 1) / fold * fold;
    for (int t = 0; t < padded; t++) {
        const struct fb_expert_row *row = rows + (size_t)(t < n ? t : n - 1) * (size_t)picks;
        g->gather.list[g->gather.n++] = (struct fb_row_copy){
            (const char *)from->data + (size_t)(row->pick % from->ne[1]) * from->nb[1] +
                (size_t)row->token * from->nb[2],
            input + (size_t)t * g->gather.bytes};
        for (int k = 0; k < picks; k++) {
            int at = t / fold * fold * picks + k * fold + t % fold;
            ids[at] = row[k].index * fold;
            if (t < n) {
                g->scatter.list[g->scatter.n++] =
                    (struct fb_row_copy){output + (size_t)at * g->scatter.bytes,
                        (char *)to->data + (size_t)row[k].pick * to->nb[1] +
                            (size_t)row[k].token * to->nb[2]};
            }
        }
    }
}

void fb_gather_add(struct fb_gather *g, struct fb_exec *ex, struct ggml_tensor *weight,
    const struct fb_expert_row *rows, int n, int picks, int fold)
{
    struct fb_queue *q = &ex->queue;
    int padded = (n + fold - 1) / fold * fold;
    int64_t wide = (int64_t)picks * fold, deep = padded / fold;
    char *input = g->scratch + g->used;
    char *output = input + (size_t)padded * g->gather.bytes;
    int32_t *ids = g->ids + g->n_ids;
    g->used += (size_t)padded * (g->gather.bytes + (size_t)picks * g->scatter.bytes);
    g->n_ids += padded * picks;
    FB_ASSERT(g->used <= g->scratch_bytes && g->n_products < FB_GATHER_MAX_PRODUCTS);
    list_copies(g, rows, n, picks, fold, ids, input, output);

    struct ggml_tensor *product = fb_queue_shadow(q, g->node);
    struct ggml_tensor *result =
        fb_queue_tensor(q, g->node, GGML_TYPE_F32, g->node->ne[0], wide, deep, output);
    product->data = output;
    product->view_src = NULL;
    memcpy(product->ne, result->ne, sizeof product->ne);
    memcpy(product->nb, result->nb, sizeof product->nb);
    product->src[0] = weight;
    product->src[1] =
        fb_queue_tensor(q, g->node, GGML_TYPE_F32, g->node->src[1]->ne[0], fold, deep, input);
    product->src[2] = fb_queue_tensor(q, g->node, GGML_TYPE_I32, wide, deep, 1, ids);
    g->products[g->n_products++] = product;
}

/* Custom operation: each thread copies a share of the rows. */
static void copy_rows(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct fb_row_copies *copies = user;
    int from = (int)((int64_t)copies->n * ith / nth);
    int to = (int)((int64_t)copies->n * (ith + 1) / nth);
    (void)dst;
    for (int i = from; i < to; i++) {
        memcpy(copies->list[i].to, copies->list[i].from, copies->bytes);
    }
}

enum ggml_status fb_gather_compute(struct fb_gather *g, struct fb_exec *ex)
{
    if (g->n_products == 0) {
        return GGML_STATUS_SUCCESS;
    }
    fb_workers_reset_ops(&ex->workers);
    fb_queue_add(&ex->queue, fb_workers_op(&ex->workers, copy_rows, &g->gather));
    for (int i = 0; i < g->n_products; i++) {
        fb_queue_add(&ex->queue, g->products[i]);
    }
    fb_queue_add(&ex->queue, fb_workers_op(&ex->workers, copy_rows, &g->scatter));
    enum ggml_status status = fb_exec_flush(ex);
    empty(g);
    return status;
}
