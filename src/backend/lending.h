/*
 * lending.h - memory that only batches need, and that slots have between them.
 *
 *      intermediate results   llama.cpp's compute buffers on our device: address space of ours. A
 *                             pass touches the part of it that its nodes and their inputs lie in.
 *      rows                   gathered for a set of experts (batch.h)
 *      slack                  kept for what the process may allocate later, until it is known
 *
 * Before a graph is computed, the memory that it will touch is counted block by block, and what is
 * more than a pass of a few tokens needs is lent by the stream (stream/adapt.h). After some passes
 * of a few tokens the blocks are given back, and the slots have their memory again. Some passes
 * later the process has allocated what it needs, and the slots get the rest of the slack, too.
 *
 * Threads: belongs to the computing thread.
 */
#ifndef FB_BACKEND_LENDING_H
#define FB_BACKEND_LENDING_H

#include "ggml-backend.h"
#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>

#define FB_MAX_LENDERS 32

/* A buffer of a context on our device. */
struct fb_lender {
    ggml_backend_buffer_t buffer;
    char *base;
    uint8_t *touched; /* [blocks] since the last return */
};

struct fb_lending {
    struct fb_lender lenders[FB_MAX_LENDERS];
    int n_lenders;
    uint64_t results_bytes; /* size of all lenders */
    bool enabled;           /* the plan counts on it */
    uint32_t rows;          /* tokens of a pass while generating */
    uint64_t own_bytes;     /* intermediate results that there is room for at all times */
    uint64_t touched_bytes; /* since the last return */
    uint32_t most_tokens;   /* of a pass since then; at least `rows` */
    int few_passes;         /* in a row of at most `rows` tokens */
    uint64_t slack_bytes;   /* that is lent, and at most */
    uint64_t most_slack_bytes;
    bool returned; /* what else batches allocated is to be freed, too */
};

/* A buffer appears and disappears. */
void fb_lending_add(struct fb_lending *l, ggml_backend_buffer_t buffer, void *base);
void fb_lending_remove(struct fb_lending *l, ggml_backend_buffer_t buffer);

/* Of a batch's intermediate results, `results_bytes`, those that a pass of `rows` tokens needs, at
 * most. */
uint64_t fb_lending_own(uint64_t results_bytes, uint32_t batch, uint32_t rows);

/* From now on memory is lent, the slack first of all. */
void fb_lending_enable(
    struct fb_lending *l, uint32_t rows, uint64_t own_bytes, uint64_t slack_bytes);

/* A pass of so many tokens begins: what earlier ones computed is not needed any more. True: now is
 * a time to see how much of the slack is in use, for fb_lending_settle. */
bool fb_lending_pass(struct fb_lending *l, uint32_t tokens);

/* The process uses so much of the slack. */
void fb_lending_settle(struct fb_lending *l, uint64_t used_bytes);

/* Before a graph of the pass is computed: the memory that intermediate results take then, beyond
 * own_bytes, and the slack. 0 unless enabled. */
uint64_t fb_lending_count(struct fb_lending *l, struct ggml_cgraph *graph);

#endif
