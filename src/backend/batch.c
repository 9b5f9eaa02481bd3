/*
 * batch.c - expert nodes (MUL_MAT_ID) of a batch, computed set by set as the stream has the experts.
 *
 * The rows of a set's experts are gathered into compact tensors, multiplied, and scattered to where
 * the node wants them, in blocks of bounded size:
 *
 *      input  [row of token 3][row of token 7]...     ids    [2][0]...  (index in the set)
 *      output [3's pick of expert 2][7's of 0]...
 *
 * What the CPU backend sees must give the same bits as the whole node would. Kernels for weights as
 * stored choose by the number of an expert's rows, so all rows of an expert are in one call. Those for
 * repacked weights take row after row; then what a call quantises counts: an activation row that
 * several of a token's experts share is gathered once, and the tokens are sorted by how many of their
 * experts are in the set (a product takes equally many of each). They also quantise rows on as many
 * threads as the input has in its second dimension, so tokens are folded `fold` deep. The kernel
 * keeps room for ne[2] of the input rows per expert, of which there may then be `fold` times as many:
 * experts are numbered by multiples of `fold`, so that each has the room of those that are skipped.
 */
#include "backend/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

uint64_t fb_moe_block_bytes = 32 * FB_MIB;
#define SCRATCH_ROWS 64 /* there is always room for so many rows */
#define MAX_PRODUCTS 8  /* in a block */
#define MAX_FOLD     8

/* One row of the node: which token, which of its experts, and that expert's index in the set. */
struct row {
    int32_t token, pick, index;
};

struct copy {
    const char *from;
    char *to;
};

/* What a custom op does: copies of `bytes` each. */
struct copies {
    struct copy *list;
    int n;
    size_t bytes;
};

struct batch {
    int n_tokens, n_picks;
    uint32_t had;      /* parts computed */
    int *routes;       /* [n_tokens][n_picks] experts */
    struct row *rows;  /* all rows, by expert */
    int *first_row;    /* [experts + 1] where an expert's rows begin in `rows` */
    struct row *list;  /* the set's rows, by token */
    int *start;        /* [n_tokens + 1] where a token's rows begin in `list` */
    struct row *alike; /* those of tokens with equally many */
    int cap_tokens, cap_rows, cap_picks, cap_experts;

    /* The block being put together: */
    struct copies gather, scatter;
    int32_t *ids;
    int n_ids;
    int n_products;
    struct ggml_tensor *products[MAX_PRODUCTS];
    size_t used;
    char *scratch;
    size_t scratch_bytes;
};

/* A node, and the set it is computed with. */
struct job {
    struct batch *batch;
    struct exec *ex;
    struct fb_binding *b;
    struct ggml_tensor *node;
    const struct claim *claim;
    const struct fb_set *set;
};

struct batch *fb_moe_batch_new(void)
{
    return fb_xcalloc(1, sizeof(struct batch));
}

void fb_moe_batch_free(struct batch *x)
{
    if (x) {
        free(x->routes);
        free(x->rows);
        free(x->first_row);
        free(x->list);
        free(x->alike);
        free(x->start);
        free(x->gather.list);
        free(x->scatter.list);
        free(x->ids);
        free(x->scratch);
        free(x);
    }
}

static uint64_t block_bytes(const struct claim *claim)
{
    return fb_max(fb_moe_block_bytes, SCRATCH_ROWS * fb_claim_row_bytes(claim));
}

uint64_t fb_moe_scratch_bytes(const struct fb_binding *b, int tokens)
{
    uint64_t most = 0;
    uint64_t rows = (uint64_t)tokens * fb_max(1, (uint64_t)b->catalog->n_expert_used);
    for (int i = 0; i < b->weights->n_weights; i++) {
        const struct fb_weight *w = &b->weights->weights[i];
        if (w->group >= 0) {
            const struct claim *claim = &b->claims[w->tensor];
            most = fb_max(most, fb_min(rows * fb_claim_row_bytes(claim), block_bytes(claim)));
        }
    }
    return most + rows * (3 * sizeof(struct row) + 2 * sizeof(struct copy) + 2 * sizeof(int));
}

/* --- Rows ---------------------------------------------------------------------------------- */

static void reserve(struct batch *x, int n_expert)
{
    if (x->n_tokens > x->cap_tokens) {
        x->cap_tokens = x->n_tokens;
        x->start = fb_xrealloc(x->start, ((size_t)x->n_tokens + 1) * sizeof *x->start);
    }
    int rows = x->n_tokens * x->n_picks;
    if (rows > x->cap_rows || x->n_picks > x->cap_picks) {
        x->cap_rows = rows > x->cap_rows ? rows : x->cap_rows;
        x->cap_picks = x->n_picks > x->cap_picks ? x->n_picks : x->cap_picks;
        size_t n = (size_t)x->cap_rows;
        size_t padded = n + MAX_PRODUCTS * MAX_FOLD * (size_t)x->cap_picks;
        x->routes = fb_xrealloc(x->routes, n * sizeof *x->routes);
        x->rows = fb_xrealloc(x->rows, n * sizeof *x->rows);
        x->list = fb_xrealloc(x->list, n * sizeof *x->list);
        x->alike = fb_xrealloc(x->alike, n * sizeof *x->alike);
        x->gather.list = fb_xrealloc(x->gather.list, padded * sizeof *x->gather.list);
        x->scatter.list = fb_xrealloc(x->scatter.list, n * sizeof *x->scatter.list);
        x->ids = fb_xrealloc(x->ids, padded * sizeof *x->ids);
    }
    if (n_expert > x->cap_experts) {
        x->cap_experts = n_expert;
        x->first_row = fb_xrealloc(x->first_row, ((size_t)n_expert + 1) * sizeof *x->first_row);
    }
}

/* Sorts the rows by expert, and by token within each. */
static void sort_rows(struct batch *x, const struct ggml_tensor *ids, int n_expert)
{
    int n = 0;
    memset(x->first_row, 0, ((size_t)n_expert + 1) * sizeof *x->first_row);
    for (int t = 0; t < x->n_tokens; t++) {
        for (int k = 0; k < x->n_picks; k++) {
            x->routes[n] = fb_moe_id(ids, k, t);
            x->first_row[x->routes[n++] + 1]++;
        }
    }
    for (int e = 0; e < n_expert; e++) {
        x->first_row[e + 1] += x->first_row[e];
    }
    for (int i = 0; i < n; i++) {
        x->rows[x->first_row[x->routes[i]]++] = (struct row){i / x->n_picks, i % x->n_picks, 0};
    }
    for (int e = n_expert; e > 0; e--) { /* the fill moved each start to the next one's */
        x->first_row[e] = x->first_row[e - 1];
    }
    x->first_row[0] = 0;
}

void fb_moe_batch_begin(struct batch *x, struct fb_binding *b, const struct ggml_tensor *node)
{
    const struct ggml_tensor *ids = node->src[2];
    int weight = fb_claim_of(node->src[0])->weight;
    int n_expert = b->weights->groups[b->weights->weights[weight].group].n_expert;
    x->n_tokens = (int)ids->ne[1];
    x->n_picks = (int)ids->ne[0];
    x->had = 0;
    reserve(x, n_expert);
    sort_rows(x, ids, n_expert);
}

bool fb_moe_batch_had(const struct batch *x, int part)
{
    return x->had & 1u << part;
}

/* Lists the rows of the set's experts by token. A token's rows are list[start[t] .. start[t + 1]). */
static void list_by_token(struct batch *x, const struct fb_set *set)
{
    memset(x->start, 0, ((size_t)x->n_tokens + 1) * sizeof *x->start);
    for (int i = 0; i < set->n; i++) {
        for (int r = x->first_row[set->experts[i]]; r < x->first_row[set->experts[i] + 1]; r++) {
            x->start[x->rows[r].token + 1]++;
        }
    }
    for (int t = 0; t < x->n_tokens; t++) {
        x->start[t + 1] += x->start[t];
    }
    for (int i = 0; i < set->n; i++) {
        for (int r = x->first_row[set->experts[i]]; r < x->first_row[set->experts[i] + 1]; r++) {
            struct row row = x->rows[r];
            row.index = set->index[i];
            x->list[x->start[row.token]++] = row;
        }
    }
    memmove(x->start + 1, x->start, (size_t)x->n_tokens * sizeof *x->start);
    x->start[0] = 0;
}

/* --- Blocks -------------------------------------------------------------------------------- */

static void copy_rows(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct copies *copies = user;
    (void)dst;
    int from = (int)((int64_t)copies->n * ith / nth),
        to = (int)((int64_t)copies->n * (ith + 1) / nth);
    for (int i = from; i < to; i++) {
        memcpy(copies->list[i].to, copies->list[i].from, copies->bytes);
    }
}

static void begin_block(struct job *j)
{
    struct batch *x = j->batch;
    x->gather.n = x->scatter.n = x->n_ids = x->n_products = 0;
    x->gather.bytes = (size_t)j->node->src[1]->ne[0] * sizeof(float);
    x->scatter.bytes = (size_t)j->node->ne[0] * sizeof(float);
    x->used = 0;
    if (x->scratch_bytes < block_bytes(j->claim)) {
        uint64_t rows = (uint64_t)x->cap_rows + MAX_PRODUCTS * MAX_FOLD;
        uint64_t bytes = fb_min(block_bytes(j->claim), rows * fb_claim_row_bytes(j->claim));
        if (x->scratch_bytes < bytes) {
            free(x->scratch);
            x->scratch = fb_xmalloc(bytes);
            x->scratch_bytes = bytes;
        }
    }
}

static enum ggml_status compute_block(struct job *j)
{
    struct batch *x = j->batch;
    if (x->n_products == 0) {
        return GGML_STATUS_SUCCESS;
    }
    struct workers *workers = &j->ex->workers;
    fb_workers_reset_ops(workers);
    fb_exec_defer(j->ex, fb_workers_op(workers, copy_rows, &x->gather));
    for (int i = 0; i < x->n_products; i++) {
        fb_exec_defer(j->ex, x->products[i]);
    }
    fb_exec_defer(j->ex, fb_workers_op(workers, copy_rows, &x->scatter));
    enum ggml_status status = fb_exec_flush(j->ex, j->b);
    begin_block(j);
    return status;
}

/* How many tokens of `picks` rows each the block still has room for. */
static int room(const struct job *j, int picks)
{
    const struct batch *x = j->batch;
    size_t each = x->gather.bytes + (size_t)picks * x->scatter.bytes;
    return x->n_products == MAX_PRODUCTS ? 0 : (int)((x->scratch_bytes - x->used) / each);
}

/* The set as a stack of experts, of which every `fold`-th number is used. */
static struct ggml_tensor *stack_of(struct job *j, int fold)
{
    const struct fb_set *set = j->set;
    struct ggml_tensor *w = fb_exec_shadow_weight(j->ex, j->node->src[0], j->claim, set->base);
    w->ne[2] = (int64_t)set->n_index * fold;
    w->nb[2] = set->stride / (size_t)fold;
    w->nb[3] = set->stride * (size_t)set->n_index;
    return w;
}

/* Adds the product of n tokens with `picks` rows each, one token after another in `rows`; n is a
 * multiple of `fold` or the last token is repeated. There is room. */
static void add_product(struct job *j, const struct row *rows, int n, int picks, int fold)
{
    struct batch *x = j->batch;
    const struct ggml_tensor *from = j->node->src[1], *to = j->node;
    int padded = (n + fold - 1) / fold * fold;
    char *input = x->scratch + x->used;
    char *output = input + (size_t)padded * x->gather.bytes;
    x->used += (size_t)padded * (x->gather.bytes + (size_t)picks * x->scatter.bytes);
    int32_t *ids = x->ids + x->n_ids;
    x->n_ids += padded * picks;
    for (int t = 0; t < padded; t++) {
        const struct row *row = rows + (size_t)(t < n ? t : n - 1) * (size_t)picks;
        x->gather.list[x->gather.n++] = (struct copy){
            (const char *)from->data + (size_t)(row->pick % from->ne[1]) * from->nb[1] +
                (size_t)row->token * from->nb[2],
            input + (size_t)t * x->gather.bytes};
        for (int k = 0; k < picks; k++) {
            int place = t / fold * fold * picks + k * fold + t % fold;
            ids[place] = row[k].index * fold;
            if (t < n) {
                x->scatter.list[x->scatter.n++] =
                    (struct copy){output + (size_t)place * x->scatter.bytes,
                        (char *)to->data + (size_t)row[k].pick * to->nb[1] +
                            (size_t)row[k].token * to->nb[2]};
            }
        }
    }
    struct ggml_tensor *product = fb_exec_shadow(j->ex, j->node);
    int64_t wide = (int64_t)picks * fold, deep = padded / fold;
    struct ggml_tensor *result =
        fb_exec_tensor(j->ex, j->node, GGML_TYPE_F32, to->ne[0], wide, deep, output);
    product->data = output;
    product->view_src = NULL;
    memcpy(product->ne, result->ne, sizeof product->ne);
    memcpy(product->nb, result->nb, sizeof product->nb);
    product->src[0] = stack_of(j, fold);
    product->src[1] = fb_exec_tensor(j->ex, j->node, GGML_TYPE_F32, from->ne[0], fold, deep, input);
    product->src[2] = fb_exec_tensor(j->ex, j->node, GGML_TYPE_I32, wide, deep, 1, ids);
    x->products[x->n_products++] = product;
}

/* --- Sets ---------------------------------------------------------------------------------- */

/* Weights as stored: whole experts together while they fit into a block; one that alone does not, in
 * equal pieces (equal, so that none falls below a kernel's threshold). */
static enum ggml_status compute_by_expert(struct job *j)
{
    struct batch *x = j->batch;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    int limit = room(j, 1), filled = 0;
    for (int i = 0; i < j->set->n; i++) {
        int expert = j->set->experts[i], first = x->first_row[expert];
        int n = x->first_row[expert + 1] - first, pieces = (n + limit - 1) / limit;
        for (int p = 0; p < pieces && status == GGML_STATUS_SUCCESS; p++) {
            int from = (int)((int64_t)n * p / pieces), to = (int)((int64_t)n * (p + 1) / pieces);
            if (filled + to - from > limit) {
                add_product(j, x->list, filled, 1, 1);
                status = compute_block(j);
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
        status = compute_block(j);
    }
    return status;
}

/* How deep n tokens are folded: for each thread a row to quantise. */
static int fold_of(const struct job *j, int n)
{
    int fold = 1;
    while (fold < MAX_FOLD && fold * 2 <= j->ex->workers.n_threads && fold * 16 <= n &&
           j->set->stride % (uint64_t)(fold * 2) == 0) {
        fold *= 2;
    }
    return fold;
}

/* Adds n tokens with `picks` rows each, in as many blocks as it takes. */
static enum ggml_status add_tokens(struct job *j, const struct row *rows, int n, int picks)
{
    int fold = fold_of(j, n);
    while (n > 0) {
        int fits = room(j, picks) / fold * fold;
        if (fits == 0) {
            enum ggml_status status = compute_block(j);
            if (status != GGML_STATUS_SUCCESS) {
                return status;
            }
            fits = room(j, picks) / fold * fold;
            if (fits == 0) {
                fold = 1;
                fits = room(j, picks);
            }
            FB_ASSERT(fits > 0);
        }
        int some = n < fits ? n : fits;
        add_product(j, rows, some, picks, fold);
        rows += (size_t)some * (size_t)picks;
        n -= some;
    }
    return GGML_STATUS_SUCCESS;
}

/* Repacked weights: the set's rows, sorted into tokens with equally many of them. Where a token's
 * experts have inputs of their own, each row is for itself. */
static enum ggml_status compute_by_token(struct job *j)
{
    struct batch *x = j->batch;
    bool shared_input = j->node->src[1]->ne[1] == 1;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    list_by_token(x, j->set);
    if (!shared_input) {
        status = add_tokens(j, x->list, x->start[x->n_tokens], 1);
    }
    for (int picks = 1; shared_input && picks <= x->n_picks; picks++) {
        int n = 0;
        for (int t = 0; t < x->n_tokens; t++) {
            if (x->start[t + 1] - x->start[t] == picks) {
                memcpy(&x->alike[n++ * picks], &x->list[x->start[t]],
                    (size_t)picks * sizeof *x->alike);
            }
        }
        if (status == GGML_STATUS_SUCCESS) {
            status = add_tokens(j, x->alike, n, picks);
        }
    }
    return status == GGML_STATUS_SUCCESS ? compute_block(j) : status;
}

static bool is_repacked(const struct claim *claim)
{
    return claim->layout && strcmp(ggml_backend_buft_name(claim->layout), "CPU_REPACK") == 0;
}

enum ggml_status fb_moe_batch_node(struct batch *x, struct exec *ex, struct fb_binding *b,
    struct ggml_tensor *node, struct claim *claim)
{
    struct forebay_error error;
    enum ggml_status status = fb_exec_flush(ex, b); /* the node's input */
    while (status == GGML_STATUS_SUCCESS) {
        struct fb_set set;
        struct job job = {x, ex, b, node, claim, &set};
        if (fb_stream_sets_next(b->stream, claim->weight, &set, &error) != FOREBAY_OK) {
            return fb_backend_fail(b, &error);
        }
        if (set.n == 0) {
            break;
        }
        begin_block(&job);
        status = is_repacked(claim) ? compute_by_token(&job) : compute_by_expert(&job);
    }
    x->had |= 1u << b->weights->weights[claim->weight].part;
    return status;
}
