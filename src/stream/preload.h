/* preload.h - reads every expert before the first token, where there is a slot for each. */
#ifndef FB_STREAM_PRELOAD_H
#define FB_STREAM_PRELOAD_H

#include "forebay.h"

struct fb_stream;

/* For fb_stream_load: fills the slots of all pools, which have one for every expert. Nothing is
 * read while generating afterwards. E_CANCELLED when `progress` (may be NULL) said stop. */
enum forebay_status fb_preload(
    struct fb_stream *s, forebay_progress progress, void *progress_user, struct forebay_error *err);

#endif
