/*
 * context.h - how long the context is when the user does not say: a pure function.
 *
 * Agents send prompts of 20,000 tokens and more, so it is as long as the model was trained for, if
 * memory allows. Its memory is taken from that of the weights and is zeroed when the model is
 * loaded, used or not. Hence it gets an eighth of the budget at most, and of a model that fits
 * nothing that its weights need.
 */
#ifndef FB_PLAN_CONTEXT_H
#define FB_PLAN_CONTEXT_H

#include <stdint.h>

/* The least default, or all that the model was trained for. */
#define FB_CONTEXT_LEAST 4096

struct fb_context_inputs {
    uint64_t budget_bytes; /* of the process */
    uint64_t fits_bytes;   /* of the process, with all weights in memory and `least` tokens */
    uint64_t least_bytes;  /* of `least` tokens: what grows with the context */
    uint32_t least;        /* tokens; at least 1 */
    uint32_t trained;
};

/* Tokens: at least `least`, at most `trained`, in multiples of 256. */
uint32_t fb_context_default(const struct fb_context_inputs *in);

#endif
