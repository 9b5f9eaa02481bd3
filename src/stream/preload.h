/* preload.h - reading every expert before the first token, where there is a slot for each. */
#ifndef FB_STREAM_PRELOAD_H
#define FB_STREAM_PRELOAD_H

#include "stream/stream.h"

/* A part of fb_stream_load. Fills the slots of a stream whose pools have one for every expert: then
 * nothing is read while generating. Any other stream is left as it is. E_CANCELLED when `progress` said
 * to stop. */
enum forebay_status fb_preload(struct fb_stream *stream, const struct fb_weights *weights,
    forebay_progress progress, void *progress_user, struct forebay_error *err);

#endif
