/*
 * lookahead.h - which experts the next layers will probably need.
 *
 * While a layer's experts are on their way, the routers of the layers behind it are asked what they
 * would choose for what this layer's router was given: the residual stream changes little from one
 * layer to the next. What they say is read ahead (fb_stream_prefetch).
 *
 *      layer l      x -> [router l ... top k] -> ids        noted: the nodes from x to the ids
 *      layer l + 1  x' -> [router l+1 ... top k]            the same nodes, on x in place of x'
 *
 * No architecture is known here: a layer's nodes between router and ids are copied from the graph
 * when it is seen for the first time, whatever they are (softmax, sigmoid, biases, groups).
 *
 * Nothing computed here reaches a result. How often each rank of a layer's choice comes true, of
 * those that would have to be read, is counted: a rank is read if it mostly does. A layer that misses
 * nothing is not asked.
 */
#ifndef FB_BACKEND_LOOKAHEAD_H
#define FB_BACKEND_LOOKAHEAD_H

#include "backend/internal.h"

struct lookahead;

struct lookahead *fb_lookahead_new(void);
void fb_lookahead_free(struct lookahead *la);

/* The group's router chose `ids` ([n_used, n_tokens]); needed[e] says how many rows need expert e.
 * `missed`: some of them are not in memory. Learns from that, and lets the stream foresee what
 * comes. Between computations only. */
void fb_lookahead_step(struct lookahead *la, struct exec *ex, struct fb_binding *b, int group,
    const struct ggml_tensor *ids, const int *needed, bool missed);

#endif
