/* sidecar_choice.h - which sidecar a model is read from. */
#ifndef FB_ENGINE_SIDECAR_CHOICE_H
#define FB_ENGINE_SIDECAR_CHOICE_H

#include "sidecar/sidecar.h"

/* This process as a maker or user of sidecars of the model. */
struct fb_sidecar_user fb_sidecar_user_here(const struct fb_catalog *catalog, bool repack);

/* Opens the model's sidecar. `wanted`: "auto" (beside the model, then in the cache directory),
 * "none" or a path. *out is NULL when there is none, or none that may be used, which is a warning.
 * E_IO only for a path that does not exist. The caller closes it; `catalog` must outlive it. */
enum forebay_status fb_sidecar_choose(const struct fb_catalog *catalog, const char *wanted,
    bool repack, struct fb_sidecar **out, struct forebay_error *err);

#endif
