/* describe.h - preflights and loaded models in the terms of forebay.h. */
#ifndef FB_ENGINE_DESCRIBE_H
#define FB_ENGINE_DESCRIBE_H

#include "engine/preflight.h"

/* How the weights that `binding` claimed are placed by `plan`. `context_bytes`: memory for all but
 * the planned weights. binding and plan are NULL when llama.cpp holds all weights itself. */
struct forebay_placement fb_describe_placement(const struct fb_preflight *preflight,
    struct fb_binding *binding, const struct fb_plan *plan, uint64_t context_bytes);

/* An estimate on a disk of this speed (0: unknown), with its range. */
struct forebay_speed fb_describe_speed(
    const struct fb_preflight *preflight, const struct fb_speed *speed, double disk_bytes_per_s);

#endif
