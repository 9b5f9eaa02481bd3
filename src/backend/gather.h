/*
 * gather.h - computing some rows of an expert node (MUL_MAT_ID): gathered into compact tensors,
 * multiplied, and scattered to where the node wants them.
 *
 *      input  [row of token 3][row of token 7]...     ids    [2][0]...  (index in the stack)
 *      output [3's pick of expert 2][7's of 0]...
 *
 * Rows are added as products; up to 8 of them make a *block*, which is computed at once and whose
 * memory is bounded. A product is an ordinary MUL_MAT_ID over tokens that all have the same number
 * of rows ("picks") in it.
 *
 *      begin(node) ---> [ add, add, ... ---> compute ] ---> [ add ... ---> compute ] ...
 *
 * Tokens of a product may be folded `fold` deep, that is, placed in the second dimension of the
 * input instead of the third (batch.c says why):
 *
 *      fold 1   input [k, 1, 4]   ids [picks, 4]        fold 2   input [k, 2, 2]   ids [2 picks, 2]
 *
 * The kernel reserves room for ne[2] input rows per expert. With folding, an expert may get up to
 * `fold` times as many. So only every fold-th expert number is used, and an expert's rows may
 * spread into the room of the unused numbers after it.
 */
#ifndef FB_BACKEND_GATHER_H
#define FB_BACKEND_GATHER_H

#include "backend/exec.h"

#define FB_GATHER_MAX_FOLD     8
#define FB_GATHER_MAX_PRODUCTS 8  /* in a block */
#define FB_GATHER_MIN_ROWS     64 /* a block has room for these at least */

/* One row of the node: a token, one of its picks, and that expert's index in the stack. */
struct fb_expert_row {
    int32_t token, pick, index;
};

struct fb_row_copy {
    const char *from;
    char *to;
};

struct fb_row_copies {
    struct fb_row_copy *list;
    int n;
    size_t bytes; /* of each */
};

/* Zeroed: without room. */
struct fb_gather {
    struct ggml_tensor *node;
    /* The block: */
    struct fb_row_copies gather, scatter;
    int32_t *ids;
    int n_ids;
    struct ggml_tensor *products[FB_GATHER_MAX_PRODUCTS];
    int n_products;
    char *scratch; /* inputs and outputs */
    size_t used, scratch_bytes;
    int cap_rows, cap_picks;
};
void fb_gather_release(struct fb_gather *g);

/* Most bytes of inputs and outputs in a block of a node whose weight has this form. */
uint64_t fb_gather_block_bytes(const struct fb_form *form);

/* Begins with a node, of which at most n_rows rows are wanted, `picks` of a token. Grows the memory
 * if need be. */
void fb_gather_begin(struct fb_gather *g, struct ggml_tensor *node, const struct fb_form *form,
    int n_rows, int picks);

/* How many tokens of `picks` rows each the block still has room for. */
int fb_gather_room(const struct fb_gather *g, int picks);

/* Adds the product of n tokens with `picks` rows each, one token after the other in `rows`, with
 * `weight`, a shadow of the node's weight as a stack of experts (only every fold-th number is
 * used). If n is not a multiple of `fold`, the last token is repeated. There must be room. */
void fb_gather_add(struct fb_gather *g, struct fb_exec *ex, struct ggml_tensor *weight,
    const struct fb_expert_row *rows, int n, int picks, int fold);

/* Computes the block, after the exec's queue, and empties it. Does nothing when it is empty. */
enum ggml_status fb_gather_compute(struct fb_gather *g, struct fb_exec *ex);

#endif
