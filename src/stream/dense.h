/*
 * dense.h - weights that every token needs: resident, or streamed through the ring.
 *
 *      resident   read once while loading, used where they are; the stream may give them back when
 *                 memory is short (adapt.h), and then streams them until they fit again
 *      streamed   read in every pass, in the order announced by fb_stream_schedule_dense
 *
 *      acquire --> DIRECT: used in the ring, freed by release
 *             \--> else: unpacked into scratch, and the ring's room is free at once
 *             \--> resident again: unpacked into its place, which stays valid
 */
#ifndef FB_STREAM_DENSE_H
#define FB_STREAM_DENSE_H

#include <stdbool.h>

#include "forebay.h"

struct fb_plan;
struct fb_stream;

/* Whether the dense weight is resident and present now. */
bool fb_stream_is_resident(const struct fb_stream *s, int weight);

/* The computed form of a weight for which fb_stream_is_resident is true; valid until
 * fb_stream_adapt(s, true). */
void *fb_stream_resident(const struct fb_stream *s, int weight);

/* The streamed weights of the next computation, in the order of their use. */
void fb_stream_schedule_dense(struct fb_stream *s, const int *weights, int n);

/* Blocks until the streamed weight is in memory; *out is its computed form, valid until
 * fb_stream_dense_release. One at a time. On failure there is nothing to release. */
enum forebay_status fb_stream_dense_acquire(
    struct fb_stream *s, int weight, const void **out, struct forebay_error *err);
void fb_stream_dense_release(struct fb_stream *s);

/* --- For the other files of stream/ ----------------------------------------------------------- */

/* Gives every resident weight its place, and reserves address space for them. False: refused. */
bool fb_dense_init(struct fb_stream *s, const struct fb_plan *plan);
void fb_dense_release(struct fb_stream *s);

/* Reads the resident weights into place in two steps, because memory is planned for what remains:
 * first those that do not fit into the ring, through memory that slots will use later, then, when
 * the slots are being allocated, the others through the ring. */
struct fb_dense_loading {
    forebay_progress progress; /* may be NULL */
    void *user;
    uint64_t done_bytes;
};
enum forebay_status fb_dense_load_large(
    struct fb_stream *s, struct fb_dense_loading *loading, struct forebay_error *err);
enum forebay_status fb_dense_load_rest(
    struct fb_stream *s, struct fb_dense_loading *loading, struct forebay_error *err);

#endif
