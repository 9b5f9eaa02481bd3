/*
 * unpack.h - what happens to a unit once it has been read, wherever it was read to: it is judged,
 * and brought from the file's bytes to its place.
 *
 * Threads: belongs to the stream's thread.
 */
#ifndef FB_STREAM_UNPACK_H
#define FB_STREAM_UNPACK_H

#include "stream/stream.h"

/* One for all parts of a stream, which it outlives. */
struct fb_unpacker {
    struct fb_io_engine *io;
    const struct fb_weights *weights;
    fb_unpack_fn arrive; /* may be NULL, and the check, too */
    fb_check_fn check;
    void *user;
    uint64_t spent_ns; /* judging and putting into place */
};

/* Whether the unit may be used, whose read is over. What is read in the form it is computed with is
 * shown to the check, which may put it right. */
enum forebay_status fb_unpacker_verify(struct fb_unpacker *a, const struct fb_io_request *read,
    int weight, int unit, struct forebay_error *err);

/* Puts n units, at least one, into place. Their weights' arrival is direct (then what was read
 * elsewhere is only copied) for all of them or for none. */
void fb_unpacker_run(struct fb_unpacker *a, const struct fb_unpack *arrivals, int n);

#endif
