/* dims.h - from the options for a model to its dimensions. */
#ifndef FB_SYNTH_DIMS_H
#define FB_SYNTH_DIMS_H

#include "synth/shape.h"
#include "synth/synth.h"

/* Chooses the dimensions that the options leave open, and checks all of them. E_USAGE when no such
 * model exists, or none of the size that is asked for. */
enum forebay_status fb_dims_resolve(
    const struct fb_synth_shape *shape, struct fb_dims *out, struct forebay_error *err);

#endif
