#include "backend/lookahead.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

#define MAX_NODES  48 /* between a router's input and its choice */
#define MAX_RANKS  16
#define MAX_TOKENS 8 /* of a batch; larger ones need most experts anyway */
#define MAX_DEPTH  4

/* Shares are averages over the last 16 cases or so; before the first, as if there had been some. */
#define MEMORY   16
#define AT_FIRST 0.6f
#define AS_IF    4
/* A rank that comes true more often than this is read ahead. */
#define CONFIDENT 0.5f
/* A layer that misses less often is not asked. One where nothing that is missing comes true is asked
 * now and then, to see whether that is still so. */
#define RARE   0.02f
#define SELDOM 16

/* The nodes from a router's input to the experts it chooses, on memory of their own. */
struct chain {
    int n; /* 0: not known */
    bool hopeless;
    int64_t n_tokens;
    struct ggml_tensor tensors[MAX_NODES]; /* in the order of computing; leaves, too */
    struct claim *claims[MAX_NODES];       /* of leaves that we hold */
    struct ggml_tensor *nodes[MAX_NODES];
    int n_nodes;
    struct ggml_tensor *input, *ids;
    char *memory;
};

/* What was said of a layer from so many layers before, and what that is worth. */
struct outlook {
    int n_ranks;
    int64_t n_tokens; /* 0: nothing was said */
    int experts[MAX_TOKENS][MAX_RANKS];
    bool missing[MAX_TOKENS][MAX_RANKS];
    float came_true[MAX_RANKS]; /* share of the missing ones that were needed indeed */
    int cases[MAX_RANKS];       /* of those, up to MEMORY */
};

struct layer {
    struct chain chain;
    const float *norm; /* of the router's input: what it was multiplied with; or NULL */
    struct outlook outlook[MAX_DEPTH];
    float missed; /* share of passes */
    unsigned skipped;
};

struct lookahead {
    int n_layers;
    struct layer *layers; /* [groups] */
    unsigned random;
};

struct lookahead *fb_lookahead_new(void)
{
    return fb_xcalloc(1, sizeof(struct lookahead));
}

static void forget(struct chain *c)
{
    free(c->memory);
    *c = (struct chain){0};
}

void fb_lookahead_free(struct lookahead *la)
{
    for (int i = 0; la && i < la->n_layers; i++) {
        forget(&la->layers[i].chain);
    }
    if (la) {
        free(la->layers);
        free(la);
    }
}

static void prepare(struct lookahead *la, int n_groups)
{
    if (la->n_layers == n_groups) {
        return;
    }
    FB_ASSERT(!la->layers);
    la->n_layers = n_groups;
    la->layers = fb_xcalloc((size_t)n_groups, sizeof *la->layers);
    for (int g = 0; g < n_groups; g++) {
        la->layers[g].missed = 1;
        for (int i = 0; i < MAX_DEPTH * MAX_RANKS; i++) {
            la->layers[g].outlook[i / MAX_RANKS].came_true[i % MAX_RANKS] = AT_FIRST;
            la->layers[g].outlook[i / MAX_RANKS].cases[i % MAX_RANKS] = AS_IF;
        }
    }
}

/* --- Noting a router's nodes ---------------------------------------------------------------- */

static bool is_weight(const struct ggml_tensor *t)
{
    return t->op == GGML_OP_NONE && !t->view_src &&
           (fb_claim_of(t) || (t->buffer && t->buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS &&
                                  ggml_backend_buffer_is_host(t->buffer)));
}

/* The product that the ids come from; NULL when it is not found. Looks back through first sources,
 * which is the way that scores take. */
static const struct ggml_tensor *find_router(const struct ggml_tensor *ids)
{
    const struct ggml_tensor *t = ids;
    for (int i = 0; t && i < MAX_NODES; i++) {
        if (t->op == GGML_OP_MUL_MAT && t->src[0] && is_weight(t->src[0])) {
            return t->src[1]->type == GGML_TYPE_F32 && ggml_is_contiguous(t->src[1]) ? t : NULL;
        }
        t = t->src[0];
    }
    return NULL;
}

struct tracing {
    struct chain *chain;
    const struct ggml_tensor *router;
    const struct ggml_tensor *seen[MAX_NODES]; /* originals of chain->tensors */
};

static struct ggml_tensor *add(struct tracing *tr, const struct ggml_tensor *original)
{
    struct chain *c = tr->chain;
    if (c->n == MAX_NODES) {
        return NULL;
    }
    tr->seen[c->n] = original;
    c->tensors[c->n] = *original;
    return &c->tensors[c->n++];
}

/* Copies the node and all it depends on, up to weights and the router's input. NULL when it depends
 * on something else. */
static struct ggml_tensor *trace(struct tracing *tr, const struct ggml_tensor *t)
{
    struct chain *c = tr->chain;
    for (int i = 0; i < c->n; i++) {
        if (tr->seen[i] == t) {
            return &c->tensors[i];
        }
    }
    struct ggml_tensor copy = *t;
    if (t == tr->router->src[1]) {
        copy.op = GGML_OP_NONE;
        copy.view_src = NULL;
        memset(copy.src, 0, sizeof copy.src);
    } else if (t->op == GGML_OP_NONE && !is_weight(t)) {
        return NULL;
    }
    for (int s = 0; s < GGML_MAX_SRC && copy.op != GGML_OP_NONE; s++) {
        if (t->src[s] && !(copy.src[s] = trace(tr, t->src[s]))) {
            return NULL;
        }
    }
    if (copy.op != GGML_OP_NONE && t->view_src && !(copy.view_src = trace(tr, t->view_src))) {
        return NULL;
    }
    struct ggml_tensor *added = add(tr, t);
    if (added) {
        *added = copy;
        c->claims[added - c->tensors] = copy.op == GGML_OP_NONE ? fb_claim_of(t) : NULL;
        if (t == tr->router->src[1]) {
            c->input = added;
        }
    }
    return added;
}

static bool has_own_memory(const struct chain *c, const struct ggml_tensor *t)
{
    return t == c->input || (t->op != GGML_OP_NONE && !t->view_src);
}

/* Gives nodes and input memory of their own. */
static void place(struct chain *c)
{
    size_t bytes = 0, at = 0;
    for (int i = 0; i < c->n; i++) {
        bytes +=
            has_own_memory(c, &c->tensors[i]) ? fb_round_up(ggml_nbytes(&c->tensors[i]), 64) : 0;
    }
    c->memory = fb_xmalloc(bytes);
    for (int i = 0; i < c->n; i++) {
        struct ggml_tensor *t = &c->tensors[i];
        if (has_own_memory(c, t)) {
            t->data = c->memory + at;
            t->buffer = NULL;
            at += fb_round_up(ggml_nbytes(t), 64);
        } else if (t->view_src) { /* sources come before what views them */
            t->data = (char *)t->view_src->data + t->view_offs;
            t->buffer = NULL;
        }
        if (t->op != GGML_OP_NONE) {
            c->nodes[c->n_nodes++] = t;
        }
    }
}

static void note(struct chain *c, const struct ggml_tensor *router, const struct ggml_tensor *ids)
{
    if (c->hopeless || (c->n > 0 && c->n_tokens == ids->ne[1])) {
        return;
    }
    forget(c);
    c->n_tokens = ids->ne[1];
    struct tracing tr = {.chain = c, .router = router};
    c->ids = router ? trace(&tr, ids) : NULL;
    if (!c->ids || !c->input) {
        forget(c);
        c->hopeless = true;
        return;
    }
    place(c);
}

/* What the router's input was multiplied with after it was normalised. */
static const float *norm_of(const struct ggml_tensor *x)
{
    bool normed = x->op == GGML_OP_MUL && x->src[1] && is_weight(x->src[1]) &&
                  !fb_claim_of(x->src[1]) && x->src[1]->type == GGML_TYPE_F32 &&
                  x->src[1]->ne[0] == x->ne[0] && ggml_nelements(x->src[1]) == x->ne[0];
    return normed ? x->src[1]->data : NULL;
}

/* --- Asking --------------------------------------------------------------------------------- */

/* The weights that we hold are where the stream has them now. False when one is not in memory. */
static bool point_at_weights(struct chain *c, struct fb_binding *b)
{
    for (int i = 0; i < c->n; i++) {
        struct claim *claim = c->claims[i];
        if (!claim) {
            continue;
        }
        if (b->weights->weights[claim->weight].group >= 0 ||
            !fb_stream_is_resident(b->stream, claim->weight)) {
            return false;
        }
        fb_form_point(&claim->form, &c->tensors[i], fb_stream_resident(b->stream, claim->weight));
    }
    return true;
}

/* x, as the other layer's norm would have scaled it. */
static void set_input(
    struct chain *c, const struct ggml_tensor *x, const float *from, const float *to)
{
    int64_t n = x->ne[0];
    for (int64_t t = 0; t < c->n_tokens; t++) {
        const float *in = (const float *)x->data + t * n;
        float *out = (float *)c->input->data + t * n;
        for (int64_t i = 0; i < n; i++) {
            float scale = from && to && from[i] != 0 ? to[i] / from[i] : 1;
            out[i] = in[i] * scale;
        }
    }
}

static int id_at(const struct ggml_tensor *ids, int64_t rank, int64_t token)
{
    return *(const int32_t *)((const char *)ids->data + (size_t)rank * ids->nb[0] +
                              (size_t)token * ids->nb[1]);
}

/* For experiments: a share of what is foreseen is made wrong. */
static int blur(struct lookahead *la, float recall, int expert, int n_expert)
{
    la->random = la->random * 1664525u + 1013904223u;
    if ((float)(la->random >> 8) < recall * (float)(1u << 24)) {
        return expert;
    }
    return (expert + 1 + (int)(la->random >> 8) % (n_expert - 1)) % n_expert;
}

static void keep_answer(
    struct lookahead *la, struct outlook *o, const struct chain *c, struct fb_binding *b, int group)
{
    int n_expert = b->weights->groups[group].n_expert;
    uint32_t all = fb_group_parts(&b->weights->groups[group]);
    o->n_tokens = c->n_tokens;
    o->n_ranks = (int)fb_min((uint64_t)c->ids->ne[0], MAX_RANKS);
    for (int64_t t = 0; t < c->n_tokens; t++) {
        for (int r = 0; r < o->n_ranks; r++) {
            int expert = id_at(c->ids, r, t);
            expert = expert < 0 || expert >= n_expert
                         ? 0
                         : blur(la, b->lookahead_recall, expert, n_expert);
            o->experts[t][r] = expert;
            o->missing[t][r] = !fb_stream_has(b->stream, group, expert, all);
        }
    }
}

/* Those of the outlook that are worth reading, the best ranks first; each once. */
static int confident(const struct outlook *o, int *out)
{
    int n = 0;
    for (int r = 0; r < o->n_ranks; r++) {
        for (int64_t t = 0; t < o->n_tokens && o->came_true[r] >= CONFIDENT; t++) {
            bool there = false;
            for (int i = 0; i < n; i++) {
                there |= out[i] == o->experts[t][r];
            }
            if (!there) {
                out[n++] = o->experts[t][r];
            }
        }
    }
    return n;
}

/* Asks the layer's router, and lets the stream foresee what it says. */
static void ask(struct lookahead *la, struct exec *ex, struct fb_binding *b, int group, int depth,
    const struct ggml_tensor *x)
{
    struct layer *from = &la->layers[group], *to = &la->layers[group + depth];
    struct chain *c = &to->chain;
    if (c->n == 0 || c->n_tokens != x->ne[1] || c->input->ne[0] != x->ne[0] ||
        !point_at_weights(c, b)) {
        return;
    }
    set_input(c, x, from->norm, to->norm);
    if (fb_workers_compute(&ex->workers, c->nodes, c->n_nodes) != GGML_STATUS_SUCCESS) {
        return;
    }
    struct outlook *o = &to->outlook[depth - 1];
    keep_answer(la, o, c, b, group + depth);
    int experts[MAX_TOKENS * MAX_RANKS];
    int n = confident(o, experts);
    if (n > 0) {
        fb_stream_prefetch(b->stream, group + depth, experts, n);
    }
}

/* --- A step ---------------------------------------------------------------------------------- */

static void count(struct outlook *o, int rank, bool right)
{
    o->cases[rank] += o->cases[rank] < MEMORY;
    o->came_true[rank] += ((right ? 1.0f : 0.0f) - o->came_true[rank]) / (float)o->cases[rank];
}

/* What was said of this layer is compared with what it needs. */
static void judge(struct layer *layer, const int *needed)
{
    for (int d = 0; d < MAX_DEPTH; d++) {
        struct outlook *o = &layer->outlook[d];
        for (int64_t t = 0; t < o->n_tokens; t++) {
            for (int r = 0; r < o->n_ranks; r++) {
                if (o->missing[t][r]) {
                    count(o, r, needed[o->experts[t][r]] > 0);
                }
            }
        }
        o->n_tokens = 0;
    }
}

static bool worth_asking(struct layer *layer, int depth)
{
    const struct outlook *o = &layer->outlook[depth - 1];
    bool any = o->n_ranks == 0; /* never asked */
    for (int r = 0; r < o->n_ranks; r++) {
        any |= o->came_true[r] >= CONFIDENT;
    }
    if (layer->missed >= RARE && (any || ++layer->skipped >= SELDOM)) {
        layer->skipped = 0;
        return true;
    }
    return false;
}

void fb_lookahead_step(struct lookahead *la, struct exec *ex, struct fb_binding *b, int group,
    const struct ggml_tensor *ids, const int *needed, bool missed)
{
    if (b->lookahead_depth == 0 || ids->ne[1] > MAX_TOKENS) {
        return;
    }
    prepare(la, b->weights->n_groups);
    struct layer *layer = &la->layers[group];
    const struct ggml_tensor *router = find_router(ids);
    judge(layer, needed);
    layer->missed += ((missed ? 1.0f : 0.0f) - layer->missed) / MEMORY;
    note(&layer->chain, router, ids);
    if (!router || layer->chain.n == 0) {
        return;
    }
    layer->norm = norm_of(router->src[1]);
    int depth = b->lookahead_depth < MAX_DEPTH ? b->lookahead_depth : MAX_DEPTH;
    for (int d = 1; d <= depth && group + d < la->n_layers; d++) {
        if (worth_asking(&la->layers[group + d], d)) {
            ask(la, ex, b, group, d, router->src[1]);
        }
    }
}
