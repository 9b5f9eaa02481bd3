/* optimize.h - the sidecar of a model: finding and judging it (optimize.c also makes it). */
#ifndef FB_ENGINE_OPTIMIZE_H
#define FB_ENGINE_OPTIMIZE_H

#include "engine/engine.h"

/* Opens the model's sidecar, once its catalogue is known: as the options say, none for a plain model. One
 * that may not be used is said to be so and left alone; E_IO only for a path that the user gave. */
enum forebay_status fb_optimized_open(struct forebay_model *model, struct forebay_error *err);

#endif
