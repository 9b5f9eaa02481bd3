/*
 * replay.h - runs a trace, step by step, through a stream on a virtual disk.
 *
 * A *step* is computed at once: one decode token, or a batch of prefill tokens. It passes through
 * the layers as the backend does: the stream decides for each layer whether its experts are used
 * together or in sets (fb_stream_layer_begin).
 *
 * Compute time (of a token, times the tokens of the step) is spread evenly over the layers with
 * experts: half of a layer's before its experts are known, the rest in equal shares for each part
 * of each expert. As in the backend, experts that are present do not wait for those that are
 * absent.
 *
 * With a device, its slots are a tier above the stream (cache/tier.h), used as gpu/gpu_walk.c does:
 * reads, uploads and the computation wait for each other in this order.
 */
#ifndef FB_SIM_REPLAY_H
#define FB_SIM_REPLAY_H

#include "model/trace.h"
#include "sim/report.h"
#include "stream/stream.h"

/* Adds the trace's figures to out->prefill, warm and decode, and hits and requests to each of
 * out->layers. The first `warm_up` decode tokens count as `warm`. The stream is loaded and unused;
 * `disk` is its virtual disk. The device has the slots that out->layers says. */
enum forebay_status fb_sim_replay(struct fb_stream *stream, const struct fb_weights *weights,
    struct fb_io_virtual *disk, const struct fb_trace *trace, const struct fb_sim_options *options,
    int warm_up, struct fb_sim_report *out, struct forebay_error *err);

/* The tokens of a step. */
struct fb_sim_step {
    int first, n; /* tokens */
    bool prefill;
};

/* The step that begins with token `first`. */
struct fb_sim_step fb_sim_step(const struct fb_trace *trace, int first);

/* Counts, for each expert of the layer, the tokens of the step that need it: uses[n_expert]. */
void fb_sim_survey(
    const struct fb_trace *trace, const struct fb_sim_step *step, int layer, int *uses);

#endif
