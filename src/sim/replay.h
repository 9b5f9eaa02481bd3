/*
 * replay.h - a trace, step by step, through a stream on a virtual disk.
 *
 * A *step* is what is computed at once: a decode token, or a batch of prefill tokens. A step goes
 * through the layers as backend/moe.c does: all of a layer's experts together, misses read for all
 * parts at once; or, where the stream wants that of a batch, set by set.
 *
 * Compute time (of a token, times the tokens of the step) is spread evenly over the layers with
 * experts: half of a layer's before its experts are known, the rest in equal shares for each part of
 * each of them. As in backend/partial.c, experts that are there do not wait for those that are not.
 */
#ifndef FB_SIM_REPLAY_H
#define FB_SIM_REPLAY_H

#include "model/trace.h"
#include "sim/sim.h"
#include "stream/stream.h"

/* Adds what the trace comes to into out->prefill, warm and decode, and hits and requests of each of
 * out->layers. The first `warm_up` decode tokens go into `warm`. The stream is loaded and unused;
 * `disk` is its virtual disk. */
enum forebay_status fb_sim_replay(struct fb_stream *stream, const struct fb_weights *weights,
    struct fb_io_virtual *disk, const struct fb_trace *trace, const struct fb_sim_options *options,
    int warm_up, struct fb_sim_report *out, struct forebay_error *err);

/* The tokens of a step, and what a layer needs for them. */
struct step {
    int first, n; /* tokens */
    bool prefill;
};

/* The step that begins with token `first`. */
struct step fb_sim_step(const struct fb_trace *trace, int first);

/* Counts, for each expert of the layer, the tokens of the step that need it: uses[n_expert]. */
void fb_sim_survey(const struct fb_trace *trace, const struct step *step, int layer, int *uses);

#endif
