/*
 * unpack.h - the last step of every read: a unit is verified and brought from the file's bytes to
 * the form that is computed with.
 *
 *      DIRECT   read straight into its place: verified there, nothing to unpack
 *      COPY     read into a staging buffer, and copied
 *      REPACK   read into a staging buffer, and repacked by the owner's callback
 *
 * Ring, transit and loads each decide where to read to; this is what they share afterwards.
 *
 * Threads: belongs to the stream's thread.
 */
#ifndef FB_STREAM_UNPACK_H
#define FB_STREAM_UNPACK_H

#include "io/io.h"
#include "model/weights.h"

/* One unit that has been read. */
struct fb_unpack {
    int weight;
    const void *raw; /* the file's bytes */
    void *dest;      /* place of the computed form */
};

/* Unpacks n units, of weights that are COPY or REPACK, and returns when all are done. Called on the
 * stream's thread. */
typedef void (*fb_unpack_fn)(void *user, const struct fb_unpack *units, int n);

/* Called for each unit of a DIRECT weight before it is used. `failed` is the error of its read, or
 * NULL. May repair the unit's bytes; when it returns FOREBAY_OK, they are right. Called on the
 * stream's thread, while no computation is under way. */
typedef enum forebay_status (*fb_check_fn)(void *user, int weight, int unit, void *data,
    const struct forebay_error *failed, struct forebay_error *err);

/* Shared by all components of a stream; must outlive them. */
struct fb_unpacker {
    struct fb_io_engine *io;
    const struct fb_weights *weights;
    fb_unpack_fn unpack; /* NULL: no weight is REPACK */
    fb_check_fn check;   /* NULL: a read that succeeded is right */
    void *user;          /* of unpack and check */
    uint64_t spent_ns;   /* verifying and unpacking, so far */
};

/* Whether the unit may be used; its read is over. For a DIRECT weight the check decides, if there
 * is one. */
enum forebay_status fb_unpacker_verify(struct fb_unpacker *u, const struct fb_io_request *read,
    int weight, int unit, struct forebay_error *err);

/* Unpacks n >= 1 units. Either all of their weights are DIRECT (read elsewhere: copied), or none.
 * */
void fb_unpacker_run(struct fb_unpacker *u, const struct fb_unpack *units, int n);

#endif
