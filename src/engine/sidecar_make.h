/* sidecar_make.h - writes a model's weights, in the form they are computed with, to a sidecar. */
#ifndef FB_ENGINE_SIDECAR_MAKE_H
#define FB_ENGINE_SIDECAR_MAKE_H

#include "engine/preflight.h"
#include "sidecar/writer.h"

/* Writes the sidecar `path`, or completes what an earlier call left of it. `contents` are the
 * weights that preflight->measuring claimed. *resumed_from: bytes of weights already there. E_NOFIT
 * when memory or the disk has no room; E_CANCELLED when the progress callback stopped it. After any
 * failure, what was written is kept for another call. */
enum forebay_status fb_sidecar_make(const struct fb_preflight *preflight,
    const struct fb_sidecar_contents *contents, const char *path, uint64_t *resumed_from,
    struct forebay_error *err);

#endif
