/*
 * batch_size.h - how many tokens of a prompt a pass should have when weights are streamed: a pure
 * function.
 *
 * A larger batch reads the weights less often, and leaves less memory for them. With experts it is
 * worth growing until the processors limit a prompt, not the disk.
 */
#ifndef FB_PLAN_BATCH_SIZE_H
#define FB_PLAN_BATCH_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/* As llama.cpp has it, and what a model that fits gets; and the fewest that are chosen. */
#define FB_BATCH_USUAL 512u
#define FB_BATCH_LEAST 32u

struct fb_batch_inputs {
    uint64_t budget_bytes;
    uint64_t least_bytes; /* the smallest budget with FB_BATCH_LEAST tokens */
    double token_bytes;   /* a token more */
    int n_expert, n_used; /* of a layer, and by a token; 0: a dense model */
    bool lent;            /* slots lend the memory of a batch; else it is reserved */
    uint32_t ctx;
};

/* In steps of FB_BATCH_LEAST. More memory never means fewer tokens, nor less memory for weights: a
 * batch takes half of the memory beyond the least if that is lent, else a quarter. */
uint32_t fb_batch_size(const struct fb_batch_inputs *in);

#endif
