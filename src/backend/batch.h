/*
 * batch.h - expert nodes (MUL_MAT_ID) of a batch, computed set by set as the stream has the experts
 * (stream/sets.h).
 *
 *      begin(ids known) ---> node(gate) ---> node(up) ---> ... node(down) ---> the layer is over
 *                            each: next set ---> its rows gathered, multiplied, scattered ---> ...
 */
#ifndef FB_BACKEND_BATCH_H
#define FB_BACKEND_BATCH_H

#include "backend/gather.h"

struct fb_moe_batch;

struct fb_moe_batch *fb_moe_batch_new(void);
void fb_moe_batch_free(struct fb_moe_batch *x);

/* Begins a layer that the stream has opened in sets. Until the layer is over, the routing must stay
 * as it is. */
void fb_moe_batch_begin(struct fb_moe_batch *x, const struct fb_routing *routing);

/* Whether the part has been computed since the layer began: each can be computed only once. */
bool fb_moe_batch_is_done(const struct fb_moe_batch *x, int part);

/* Computes the queue and then a node of the layer. Blocks while experts are read. */
enum ggml_status fb_moe_batch_node(struct fb_moe_batch *x, struct fb_exec *ex,
    struct ggml_tensor *node, const struct fb_tensor_claim *claim);

/* Bytes that a batch of so many tokens takes in a context of `ctx`, besides llama.cpp's buffers. */
uint64_t fb_moe_batch_bytes(const struct fb_binding *b, uint32_t ctx, uint32_t tokens);

#endif
