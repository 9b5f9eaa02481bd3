/*
 * sets.h - the experts of one layer for a batch that needs more of them than there are slots, or
 * many that are not there: hits are used where they are, misses pass through the transit.
 *
 *      begin ---> set: hits in their slots ---> set: misses in the transit ---> set ... ---> end
 *                 (again for each part: gate, up, down)
 *
 * Meanwhile the slots get the experts that the batch's last tokens used most, since what comes next
 * will use them again. Such a miss is put into a slot instead of a place next to the transit. The
 * slot's old expert, if the batch needs it, was computed with before: parts are replaced one by one.
 *
 * Contracts are those of fb_stream_batch_* in stream.h.
 */
#ifndef FB_STREAM_SETS_H
#define FB_STREAM_SETS_H

#include "stream/experts.h"
#include "stream/transit.h"

struct fb_batch;

struct fb_batch *fb_batch_new(
    struct fb_unpacker *unpacker, struct fb_experts *experts, struct fb_transit *transit);
void fb_batch_free(struct fb_batch *b);

void fb_batch_begin(struct fb_batch *b, int weight, const struct fb_routes *routes);
enum forebay_status fb_batch_next(
    struct fb_batch *b, int weight, struct fb_set *set, struct forebay_error *err);
void fb_batch_end(struct fb_batch *b);

#endif
