/* preload.h - reads every expert before the first token, where there is a slot for each. */
#ifndef FB_STREAM_PRELOAD_H
#define FB_STREAM_PRELOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "forebay.h"

struct fb_stream;

/* For fb_stream_load: fills the slots of all pools, which have one for every expert. Nothing is
 * read while generating afterwards. E_CANCELLED when `progress` (may be NULL) said stop. */
enum forebay_status fb_preload(
    struct fb_stream *s, forebay_progress progress, void *progress_user, struct forebay_error *err);

/* Gives back what the target asks for, and waits until this process may take `bytes` more without
 * touching the reserve: a second, in all calls together since there was room. False: there is no
 * room; it is time to go on all the same. Nobody may hold a pointer to a resident weight. */
bool fb_preload_room(struct fb_stream *s, uint64_t bytes);

#endif
