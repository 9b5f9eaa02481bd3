/*
 * lookahead.c - chains of router nodes, guesses, and how often they were right.
 *
 * Every layer has a chain, and for each distance (1 layer ahead, 2, ...) the last guess and its
 * record. At a layer's turn (fb_lookahead_step):
 *
 *      judge   the guesses that were made for this layer, by the experts it needs
 *      note    its chain, if it has none for this number of tokens
 *      guess   for the layers 1, 2, ... behind it, by their chains; prefetch the ranks that are
 *              mostly right
 */
#include "backend/lookahead.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/units.h"

#define MAX_NODES  48 /* between a router's input and its choice */
#define MAX_RANKS  16
#define MAX_TOKENS 8 /* of a batch; larger ones need most experts anyway */
#define MAX_DEPTH  4

/* Rates are averages over about the last 16 cases. They begin at a rate that counts as 4 cases. */
#define RATE_CASES  16
#define FIRST_RATE  0.6f
#define FIRST_CASES 4
/* A rank whose guesses are right more often than this is prefetched. */
#define CONFIDENT 0.5f
/* A layer that misses less often is not evaluated. One with no confident rank is evaluated only
 * every 16th time, to notice when that changes. */
#define RARE_MISSES 0.02f
#define RETRY_STEPS 16

/* The nodes from a router's input to the experts it chooses, copied, on memory of their own. */
struct chain {
    int n; /* 0: not known */
    bool unusable;
    int64_t n_tokens;
    struct ggml_tensor tensors[MAX_NODES];     /* in the order of computing; leaves, too */
    struct fb_tensor_claim *claims[MAX_NODES]; /* of leaves that are our weights */
    struct ggml_tensor *nodes[MAX_NODES];
    int n_nodes;
    struct ggml_tensor *input, *ids;
    char *memory;
};

/* The last guess for a layer from a given distance, and how good such guesses are. */
struct guess {
    int n_ranks;
    int64_t n_tokens; /* 0: none */
    int experts[MAX_TOKENS][MAX_RANKS];
    bool missing[MAX_TOKENS][MAX_RANKS]; /* not in memory when guessed */
    float right[MAX_RANKS];              /* rate, of the missing ones */
    int cases[MAX_RANKS];                /* that the rate is made of, up to RATE_CASES */
};

struct lookahead_layer {
    struct chain chain;
    const float *norm; /* weights of the norm before the router; NULL: not known */
    struct guess guess[MAX_DEPTH];
    float missed; /* rate of steps */
    unsigned n_skipped;
};

struct fb_lookahead {
    int n_layers;
    struct lookahead_layer *layers; /* [groups] */
    uint64_t random;
};

struct fb_lookahead *fb_lookahead_new(void)
{
    return fb_xcalloc(1, sizeof(struct fb_lookahead));
}

static void clear_chain(struct chain *c)
{
    free(c->memory);
    *c = (struct chain){0};
}

void fb_lookahead_free(struct fb_lookahead *la)
{
    for (int i = 0; la && i < la->n_layers; i++) {
        clear_chain(&la->layers[i].chain);
    }
    if (la) {
        free(la->layers);
        free(la);
    }
}

static void prepare(struct fb_lookahead *la, int n_groups)
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
            la->layers[g].guess[i / MAX_RANKS].right[i % MAX_RANKS] = FIRST_RATE;
            la->layers[g].guess[i / MAX_RANKS].cases[i % MAX_RANKS] = FIRST_CASES;
        }
    }
}

/* --- Noting a chain -------------------------------------------------------------------------- */

static bool is_weight(const struct ggml_tensor *t)
{
    return t->op == GGML_OP_NONE && !t->view_src &&
           (fb_claim_of(t) ||
               (t->buffer &&
                   ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS &&
                   ggml_backend_buffer_is_host(t->buffer)));
}

/* The product that the ids come from; NULL when it is not found. Follows first sources, as scores
 * are always the first source of what is done to them. */
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
 * on something else, or on too many. */
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

/* Gives nodes and input memory of their own, and lists the nodes. */
static void allocate(struct chain *c)
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
        } else if (t->view_src) { /* sources precede their views */
            t->data = (char *)t->view_src->data + t->view_offs;
            t->buffer = NULL;
        }
        if (t->op != GGML_OP_NONE) {
            c->nodes[c->n_nodes++] = t;
        }
    }
}

/* Copies the chain from the graph, unless there is one for this number of tokens. */
static void note(struct chain *c, const struct ggml_tensor *router, const struct ggml_tensor *ids)
{
    if (c->unusable || (c->n > 0 && c->n_tokens == ids->ne[1])) {
        return;
    }
    clear_chain(c);
    c->n_tokens = ids->ne[1];
    struct tracing tr = {.chain = c, .router = router};
    c->ids = router ? trace(&tr, ids) : NULL;
    if (!c->ids || !c->input) {
        clear_chain(c);
        c->unusable = true;
        return;
    }
    allocate(c);
}

/* The weights that the router's input was multiplied with after it was normalised; NULL when that
 * is not how it was made. */
static const float *norm_of(const struct ggml_tensor *x)
{
    bool normed = x->op == GGML_OP_MUL && x->src[1] && is_weight(x->src[1]) &&
                  !fb_claim_of(x->src[1]) && x->src[1]->type == GGML_TYPE_F32 &&
                  x->src[1]->ne[0] == x->ne[0] && ggml_nelements(x->src[1]) == x->ne[0];
    return normed ? x->src[1]->data : NULL;
}

/* --- Guessing -------------------------------------------------------------------------------- */

/* Points the chain at our weights, where they are now. False when one of them is not resident. */
static bool point_at_weights(struct chain *c, struct fb_binding *b)
{
    for (int i = 0; i < c->n; i++) {
        struct fb_tensor_claim *claim = c->claims[i];
        if (!claim) {
            continue;
        }
        if (fb_claim_weight(b, claim)->group >= 0 ||
            !fb_stream_is_resident(b->stream, claim->weight)) {
            return false;
        }
        fb_form_point(&claim->form, &c->tensors[i], fb_stream_resident(b->stream, claim->weight));
    }
    return true;
}

/* Sets the chain's input to x, scaled from this layer's norm to that of the chain's layer. */
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

/* For experiments: leaves only the fraction `recall` of guesses as they are. */
static int blur(struct fb_lookahead *la, float recall, int expert, int n_expert)
{
    uint32_t random = (uint32_t)fb_random_next(&la->random) >> 8;
    if ((float)random < recall * (float)(1u << 24)) {
        return expert;
    }
    return (expert + 1 + (int)random % (n_expert - 1)) % n_expert;
}

/* Records the chain's ids as the guess for the group. */
static void record(struct fb_lookahead *la, struct guess *guess, const struct chain *c,
    const struct fb_binding *b, int group)
{
    int n_expert = b->weights->groups[group].n_expert;
    uint32_t parts = fb_group_parts(&b->weights->groups[group]);
    guess->n_tokens = c->n_tokens;
    guess->n_ranks = (int)fb_min((uint64_t)c->ids->ne[0], MAX_RANKS);
    for (int64_t t = 0; t < c->n_tokens; t++) {
        for (int r = 0; r < guess->n_ranks; r++) {
            int expert = fb_routing_id(c->ids, r, t);
            expert = expert < 0 || expert >= n_expert
                         ? 0
                         : blur(la, b->lookahead_recall, expert, n_expert);
            guess->experts[t][r] = expert;
            guess->missing[t][r] = !fb_stream_has(b->stream, group, expert, parts);
        }
    }
}

/* Lists the guessed experts of confident ranks, the best ranks first, each expert once. */
static int confident_experts(const struct guess *guess, int *out)
{
    int n = 0;
    for (int r = 0; r < guess->n_ranks; r++) {
        for (int64_t t = 0; t < guess->n_tokens && guess->right[r] >= CONFIDENT; t++) {
            bool listed = false;
            for (int i = 0; i < n; i++) {
                listed |= out[i] == guess->experts[t][r];
            }
            if (!listed) {
                out[n++] = guess->experts[t][r];
            }
        }
    }
    return n;
}

/* Evaluates the chain of the layer `depth` behind the group's on x, and prefetches. */
static void guess_layer(
    struct fb_lookahead *la, struct fb_exec *ex, int group, int depth, const struct ggml_tensor *x)
{
    struct fb_binding *b = ex->binding;
    struct lookahead_layer *from = &la->layers[group], *to = &la->layers[group + depth];
    struct chain *c = &to->chain;
    if (c->n == 0 || c->n_tokens != x->ne[1] || c->input->ne[0] != x->ne[0] ||
        !point_at_weights(c, b)) {
        return;
    }
    set_input(c, x, from->norm, to->norm);
    if (fb_workers_compute(&ex->workers, c->nodes, c->n_nodes) != GGML_STATUS_SUCCESS) {
        return;
    }
    struct guess *guess = &to->guess[depth - 1];
    record(la, guess, c, b, group + depth);
    int experts[MAX_TOKENS * MAX_RANKS];
    int n = confident_experts(guess, experts);
    if (n > 0) {
        fb_stream_prefetch(b->stream, group + depth, experts, n);
    }
}

/* --- A step ---------------------------------------------------------------------------------- */

static void count(struct guess *guess, int rank, bool right)
{
    guess->cases[rank] += guess->cases[rank] < RATE_CASES;
    guess->right[rank] += ((right ? 1.0f : 0.0f) - guess->right[rank]) / (float)guess->cases[rank];
}

/* Compares the guesses for this layer with the experts it needs, and drops them. */
static void judge(struct lookahead_layer *layer, const int *rows)
{
    for (int d = 0; d < MAX_DEPTH; d++) {
        struct guess *guess = &layer->guess[d];
        for (int64_t t = 0; t < guess->n_tokens; t++) {
            for (int r = 0; r < guess->n_ranks; r++) {
                if (guess->missing[t][r]) {
                    count(guess, r, rows[guess->experts[t][r]] > 0);
                }
            }
        }
        guess->n_tokens = 0;
    }
}

static bool is_worth_guessing(struct lookahead_layer *layer, int depth)
{
    const struct guess *guess = &layer->guess[depth - 1];
    bool any = guess->n_ranks == 0; /* never guessed */
    for (int r = 0; r < guess->n_ranks; r++) {
        any |= guess->right[r] >= CONFIDENT;
    }
    if (layer->missed >= RARE_MISSES && (any || ++layer->n_skipped >= RETRY_STEPS)) {
        layer->n_skipped = 0;
        return true;
    }
    return false;
}

void fb_lookahead_step(struct fb_lookahead *la, struct fb_exec *ex, int group,
    const struct ggml_tensor *ids, const struct fb_routing *routing, bool missed)
{
    const struct fb_binding *b = ex->binding;
    if (b->lookahead_depth == 0 || ids->ne[1] > MAX_TOKENS) {
        return;
    }
    prepare(la, b->weights->n_groups);
    struct lookahead_layer *layer = &la->layers[group];
    const struct ggml_tensor *router = find_router(ids);
    judge(layer, routing->rows);
    layer->missed += ((missed ? 1.0f : 0.0f) - layer->missed) / RATE_CASES;
    note(&layer->chain, router, ids);
    if (!router || layer->chain.n == 0) {
        return;
    }
    layer->norm = norm_of(router->src[1]);
    int depth = b->lookahead_depth < MAX_DEPTH ? b->lookahead_depth : MAX_DEPTH;
    for (int d = 1; d <= depth && group + d < la->n_layers; d++) {
        if (is_worth_guessing(&la->layers[group + d], d)) {
            guess_layer(la, ex, group, d, router->src[1]);
        }
    }
}
