/*
 * sim.h - replays a real model's routing: hit rates, bytes and speed of a cache.
 *
 * A routing trace (model/trace.h) runs through the cache and stream code that runs models, with a
 * virtual disk and a virtual clock (io/simulated.c), and beside it through the optimum that knows
 * the future (belady.h). No weight is read and no memory for weights is touched. The same input
 * gives the same figures on every machine. docs/SIM.md says what they mean.
 */
#ifndef FB_SIM_SIM_H
#define FB_SIM_SIM_H

#include "forebay.h"
#include "sim/report.h"

void fb_sim_options_init(struct fb_sim_options *options);

/* `model` is a GGUF, of which only the header is read, or a shape: "LAYERSxEXPERTS,USED,BYTES",
 * such as "48x128,6,2.6M": 48 layers of 128 experts of 2.6 MiB, of which a token uses 6.
 * Errors: E_USAGE (a bad shape, an unknown policy, a trace of another shape), E_NOFIT, and those of
 * fb_catalog_open and fb_trace_read; *out is then unchanged. */
enum forebay_status fb_sim_run(const char *model, const char *trace,
    const struct fb_sim_options *options, struct fb_sim_report *out, struct forebay_error *err);
void fb_sim_report_release(struct fb_sim_report *report);

const char *fb_sim_policy_names(void); /* for the help */

#endif
