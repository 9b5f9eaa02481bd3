/*
 * adapt.h - more and less memory while the model runs.
 *
 * Slots can be given back, down to two in each pool, and resident dense weights that can be
 * streamed instead (elastic.h). Dense weights are given back last and regained first, each when it
 * is next read; slots are regained empty.
 *
 * While a batch is computed, slots lend memory to its intermediate results and to the transit. What
 * is lent counts as held: it belongs to the weights, and comes back to them.
 *
 *      any thread:          fb_stream_held ---> decides ---> fb_stream_set_target
 *      the stream's thread: fb_stream_adapt, wherever it holds no pointer that may become invalid
 */
#ifndef FB_STREAM_ADAPT_H
#define FB_STREAM_ADAPT_H

#include <stdbool.h>
#include <stdint.h>

struct fb_stream;

/* Memory of the slots and dense weights that can be given back: as planned, and when everything
 * possible has been given back. */
uint64_t fb_stream_most(const struct fb_stream *s);
uint64_t fb_stream_least(const struct fb_stream *s);

/* The same now. Any thread, at any time. */
uint64_t fb_stream_held(const struct fb_stream *s);

/* How much it may be from now on, for fb_stream_adapt. Any thread, at any time. */
void fb_stream_set_target(struct fb_stream *s, uint64_t bytes);

/* From the next fb_stream_adapt on, a pass uses `bytes` of the planned memory for other things than
 * weights; slots go without them. No more than the plan's batch_bytes. The stream's thread. */
void fb_stream_lend(struct fb_stream *s, uint64_t bytes);

/* Whether memory is lent now, to a pass or to the transit. */
bool fb_stream_lends(const struct fb_stream *s);

/* Approaches the target as far as is possible now. Pools in use keep their size. Resident weights
 * are given back only if `all`, which says that nobody holds a pointer to one and none is acquired.
 * Cheap when there is nothing to do. */
void fb_stream_adapt(struct fb_stream *s, bool all);

/* Whether the target is below what is held: leases should end soon. */
bool fb_stream_must_shrink(const struct fb_stream *s);

/* Slots of all pools, and memory of the resident weights that are present, now. */
int fb_stream_n_slots(const struct fb_stream *s);
uint64_t fb_stream_resident_bytes(const struct fb_stream *s);

/* For the other files of stream/: updates fb_stream_held; lends memory to the transit, before it is
 * used, or takes it back. */
void fb_adapt_note_held(struct fb_stream *s);
void fb_adapt_lend_transit(struct fb_stream *s, bool used);

#endif
