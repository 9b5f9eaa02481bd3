/*
 * lookahead.h - guesses which experts the next layers will need, and prefetches them.
 *
 * While a layer's experts are being read, the routers of the layers after it are evaluated on the
 * input of this layer's router: the residual stream changes little from one layer to the next.
 * The experts they choose are prefetched (fb_stream_prefetch).
 *
 *      layer l      x -> [router l ... top k] -> ids        the chain: nodes from x to the ids
 *      layer l + 1  x' -> [router l+1 ... top k]            its chain, with x in place of x'
 *
 * No architecture is known here: a layer's chain is copied from the graph when the layer is seen
 * for the first time, whatever nodes it consists of (softmax, sigmoid, biases, groups).
 *
 * Nothing computed here reaches a result. Among the guesses that would have to be read, we count
 * how many were right, for each layer and rank (the router's first choice, its second, ...): a rank
 * is prefetched if most were. A layer that hardly ever misses is not evaluated.
 */
#ifndef FB_BACKEND_LOOKAHEAD_H
#define FB_BACKEND_LOOKAHEAD_H

#include "backend/exec.h"

struct fb_lookahead;

struct fb_lookahead *fb_lookahead_new(void);
void fb_lookahead_free(struct fb_lookahead *la);

/* The group's router chose `ids`, which were read into `routing`. `missed`: some of these experts
 * are not in memory. Learns from the choice, guesses for the next layers, and prefetches. Computes
 * on the exec's workers, so only between computations; the queue is empty. */
void fb_lookahead_step(struct fb_lookahead *la, struct fb_exec *ex, int group,
    const struct ggml_tensor *ids, const struct fb_routing *routing, bool missed);

#endif
