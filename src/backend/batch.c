/*
 * batch.c - how the rows of a set of experts are put together, so that the results are exact.
 *
 * The CPU backend must see nodes that give the same bits as the whole node would:
 *
 *   as stored    kernels are chosen by the number of an expert's rows, so all rows of an expert are
 *                in one product (only an expert with more rows than a block has room for is cut)
 *   interleaved  kernels compute row after row, so rows may be grouped freely, and speed decides:
 *                the kernel first quantises each input row of a product, so a row that several of
 *                a token's experts share is gathered once. A product has equally many rows of each
 *                token, hence tokens are sorted by how many of their experts are in the set.
 *
 * The interleaved kernels quantise on as many threads as the input's second dimension has rows;
 * therefore tokens are folded (gather.h) as deep as there are threads.
 *
 *      rows       by expert, and by token within each; first_row[e] is where expert e's begin
 *      list       the set's rows, by token; start[t] is where token t's begin
 *      alike      those of tokens with equally many
 */
#include "backend/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

struct fb_moe_batch {
    const struct fb_routing *routing;
    uint32_t done;              /* parts computed */
    struct fb_expert_row *rows; /* all rows, by expert; their index is not set */
    int *first_row;             /* [experts + 1] */
    struct fb_expert_row *list;
    int *start; /* [tokens + 1] */
    struct fb_expert_row *alike;
    int cap_tokens, cap_rows, cap_experts;
    struct fb_gather gather;
};

/* A node, and the set that is computed now. */
struct set_job {
    struct fb_moe_batch *batch;
    struct fb_exec *ex;
    struct ggml_tensor *node;
    const struct fb_tensor_claim *claim;
    const struct fb_set *set;
};

struct fb_moe_batch *fb_moe_batch_new(void)
{
    return fb_xcalloc(1, sizeof(struct fb_moe_batch));
}

void fb_moe_batch_free(struct fb_moe_batch *x)
{
    if (x) {
        free(x->rows);
        free(x->first_row);
        free(x->list);
        free(x->alike);
        free(x->start);
        fb_gather_release(&x->gather);
        free(x);
    }
}

uint64_t fb_moe_batch_bytes(const struct fb_binding *b, uint32_t ctx, uint32_t tokens)
{
    uint64_t most = 0;
    uint64_t rows = (uint64_t)tokens * fb_max(1, (uint64_t)b->catalog->n_expert_used);
    for (int i = 0; i < b->weights->n_weights; i++) {
        const struct fb_weight *w = &b->weights->weights[i];
        if (w->group >= 0) {
            const struct fb_form *form = &b->claims[w->tensor].form;
            most =
                fb_max(most, fb_min(rows * fb_form_row_bytes(form), fb_gather_block_bytes(form)));
        }
    }
    return most +
           rows * (3 * sizeof(struct fb_expert_row) + 2 * sizeof(struct fb_row_copy) +
                      2 * sizeof(int)) +
           2 * sizeof(float) * (uint64_t)ctx * tokens;
}

/* --- Rows ---------------------------------------------------------------------------------- */

static void reserve(struct fb_moe_batch *x)
{
    const struct fb_routes *routes = &x->routing->routes;
    int n_rows = routes->tokens * routes->picks, n_expert = x->routing->n_expert;
    if (routes->tokens > x->cap_tokens) {
        x->cap_tokens = routes->tokens;
        x->start = fb_xrealloc(x->start, ((size_t)routes->tokens + 1) * sizeof *x->start);
    }
    if (n_rows > x->cap_rows) {
        x->cap_rows = n_rows;
        x->rows = fb_xrealloc(x->rows, (size_t)n_rows * sizeof *x->rows);
        x->list = fb_xrealloc(x->list, (size_t)n_rows * sizeof *x->list);
        x->alike = fb_xrealloc(x->alike, (size_t)n_rows * sizeof *x->alike);
    }
    if (n_expert > x->cap_experts) {
        x->cap_experts = n_expert;
        x->first_row = fb_xrealloc(x->first_row, ((size_t)n_expert + 1) * sizeof *x->first_row);
    }
}

/* Sorts the rows by expert, and by token within each. */
static void sort_rows(struct fb_moe_batch *x)
{
    const struct fb_routing *r = x->routing;
    int n = r->routes.tokens * r->routes.picks;
    x->first_row[0] = 0;
    for (int e = 0; e < r->n_expert; e++) {
        x->first_row[e + 1] = x->first_row[e] + r->rows[e];
    }
    for (int i = 0; i < n; i++) {
        x->rows[x->first_row[r->routes.experts[i]]++] =
            (struct fb_expert_row){i / r->routes.picks, i % r->routes.picks, 0};
    }
    for (int e = r->n_expert; e > 0; e--) { /* filling moved each start to the next one's */
        x->first_row[e] = x->first_row[e - 1];
    }
    x->first_row[0] = 0;
}

void fb_moe_batch_begin(struct fb_moe_batch *x, const struct fb_routing *routing)
{
    x->routing = routing;
    x->done = 0;
    reserve(x);
    sort_rows(x);
}

bool fb_moe_batch_is_done(const struct fb_moe_batch *x, int part)
{
    return x->done & 1u << part;
}

/* Lists the rows of the set's experts by token: token t's are list[start[t] .. start[t + 1]). */
static void list_by_token(struct fb_moe_batch *x, const struct fb_set *set)
{
    int n_tokens = x->routing->routes.tokens;
    memset(x->start, 0, ((size_t)n_tokens + 1) * sizeof *x->start);
    for (int i = 0; i < set->n; i++) {
        for (int r = x->first_row[set->experts[i]]; r < x->first_row[set->experts[i] + 1]; r++) {
            x->start[x->rows[r].token + 1]++;
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        x->start[t + 1] += x->start[t];
    }
    for (int i = 0; i < set->n; i++) {
        for (int r = x->first_row[set->experts[i]]; r < x->first_row[set->experts[i] + 1]; r++) {
            struct fb_expert_row row = x->rows[r];
            row.index = set->index[i];
            x->list[x->start[row.token]++] = row;
        }
    }
    memmove(x->start + 1, x->start, (size_t)n_tokens * sizeof *x->start);
    x->start[0] = 0;
}

/* --- Sets ---------------------------------------------------------------------------------- */

static void add_product(
    struct set_job *j, const struct fb_expert_row *rows, int n, int picks, int fold)
{
    const struct fb_set *set = j->set;
    struct ggml_tensor *stack =
        fb_queue_shadow_weight(&j->ex->queue, j->node->src[0], &j->claim->form, set->base);
    stack->ne[2] = (int64_t)set->n_index * fold;
    stack->nb[2] = set->stride / (size_t)fold;
    stack->nb[3] = set->stride * (size_t)set->n_index;
    fb_gather_add(&j->batch->gather, j->ex, stack, rows, n, picks, fold);
}

/* Weights as stored: whole experts together while they fit into a block. One that alone does not
 * fit is cut into equal pieces (equal, so that none falls below a kernel's threshold). */
static enum ggml_status compute_by_expert(struct set_job *j)
{
    struct fb_moe_batch *x = j->batch;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    int limit = fb_gather_room(&x->gather, 1), filled = 0;
    for (int i = 0; i < j->set->n; i++) {
        int expert = j->set->experts[i], first = x->first_row[expert];
        int n = x->first_row[expert + 1] - first, pieces = (n + limit - 1) / limit;
        for (int p = 0; p < pieces && status == GGML_STATUS_SUCCESS; p++) {
            int from = (int)((int64_t)n * p / pieces), to = (int)((int64_t)n * (p + 1) / pieces);
            if (filled + to - from > limit) {
                add_product(j, x->list, filled, 1, 1);
                status = fb_gather_compute(&x->gather, j->ex);
                filled = 0;
            }
            for (int r = from; r < to; r++) {
                x->list[filled] = x->rows[first + r];
                x->list[filled++].index = j->set->index[i];
            }
        }
    }
    if (status == GGML_STATUS_SUCCESS && filled > 0) {
        add_product(j, x->list, filled, 1, 1);
        status = fb_gather_compute(&x->gather, j->ex);
    }
    return status;
}

/* How deep n tokens are folded: one row to quantise for each thread. */
static int fold_of(const struct set_job *j, int n)
{
    int fold = 1;
    while (fold < FB_GATHER_MAX_FOLD && fold * 2 <= j->ex->workers.n_threads && fold * 16 <= n &&
           j->set->stride % (uint64_t)(fold * 2) == 0) {
        fold *= 2;
    }
    return fold;
}

/* Adds n tokens with `picks` rows each, in as many blocks as necessary. */
static enum ggml_status add_tokens(
    struct set_job *j, const struct fb_expert_row *rows, int n, int picks)
{
    struct fb_gather *g = &j->batch->gather;
    int fold = fold_of(j, n);
    while (n > 0) {
        int room = fb_gather_room(g, picks) / fold * fold;
        if (room == 0) {
            enum ggml_status status = fb_gather_compute(g, j->ex);
            if (status != GGML_STATUS_SUCCESS) {
                return status;
            }
            room = fb_gather_room(g, picks) / fold * fold;
            if (room == 0) {
                fold = 1;
                room = fb_gather_room(g, picks);
            }
            FB_ASSERT(room > 0);
        }
        int some = n < room ? n : room;
        add_product(j, rows, some, picks, fold);
        rows += (size_t)some * (size_t)picks;
        n -= some;
    }
    return GGML_STATUS_SUCCESS;
}

/* Interleaved weights: tokens with equally many of the set's rows together. Where each of a token's
 * experts has its own input, every row is a token of its own. */
static enum ggml_status compute_by_token(struct set_job *j)
{
    struct fb_moe_batch *x = j->batch;
    const struct fb_routes *routes = &x->routing->routes;
    bool shared_input = j->node->src[1]->ne[1] == 1;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    list_by_token(x, j->set);
    if (!shared_input) {
        status = add_tokens(j, x->list, x->start[routes->tokens], 1);
    }
    for (int picks = 1; shared_input && picks <= routes->picks; picks++) {
        int n = 0;
        for (int t = 0; t < routes->tokens; t++) {
            if (x->start[t + 1] - x->start[t] == picks) {
                memcpy(&x->alike[n++ * picks], &x->list[x->start[t]],
                    (size_t)picks * sizeof *x->alike);
            }
        }
        if (status == GGML_STATUS_SUCCESS) {
            status = add_tokens(j, x->alike, n, picks);
        }
    }
    return status == GGML_STATUS_SUCCESS ? fb_gather_compute(&x->gather, j->ex) : status;
}

enum ggml_status fb_moe_batch_node(struct fb_moe_batch *x, struct fb_exec *ex,
    struct ggml_tensor *node, const struct fb_tensor_claim *claim)
{
    const struct fb_routes *routes = &x->routing->routes;
    struct forebay_error error;
    enum ggml_status status = fb_exec_flush(ex); /* the node's input */
    while (status == GGML_STATUS_SUCCESS) {
        struct fb_set set;
        struct set_job job = {x, ex, node, claim, &set};
        if (fb_stream_sets_next(ex->binding->stream, claim->weight, &set, &error) != FOREBAY_OK) {
            return fb_binding_fail(ex->binding, &error);
        }
        if (set.n == 0) {
            break;
        }
        fb_gather_begin(
            &x->gather, node, &claim->form, routes->tokens * routes->picks, routes->picks);
        status = fb_layout_is_interleaved(&claim->form.layout) ? compute_by_token(&job)
                                                               : compute_by_expert(&job);
    }
    x->done |= 1u << fb_claim_weight(ex->binding, claim)->part;
    return status;
}
