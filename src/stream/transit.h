/*
 * transit.h - experts that pass through memory: what a batch needs and the slots do not hold is
 * read in the order of its use into a ring of memory, computed with, and dropped. Each unit is read
 * once, and nothing that the slots hold is evicted for it.
 *
 *      oldest                                                            youngest
 *      [acquired][read][read] [skipped] [being read] | [being read][being read] ... room
 *        layer 3 gate: its ids are known, so its       layer 4 gate, prefetched: all experts
 *        misses are, too; then up, then down           that are not in slots
 *
 * Reads run on across the weights of a layer and into later layers as far as the memory allows. For
 * a layer whose ids are not known yet, the absent experts are prefetched in order, if the batch is
 * so large that most of them will be needed. When the ids are known, the units that are not needed
 * are skipped and the others are used.
 *
 * All units of a weight take the same room, so units that were read one after another lie at equal
 * distances: those acquired in one call can be computed with as one stack.
 *
 * Threads: belongs to the stream's thread. Reads are issued only in calls of this interface.
 */
#ifndef FB_STREAM_TRANSIT_H
#define FB_STREAM_TRANSIT_H

#include "stream/stats.h"
#include "stream/unpack.h"

struct fb_transit;

/* One expert matrix of a scheduled computation: rows of `tokens` tokens, `picks` experts each. */
struct fb_expert_use {
    int weight, tokens, picks;
};

/* Whether the group's expert must be read to be used: it is not in a slot. */
typedef bool (*fb_absent_fn)(void *user, int group, int expert);

/* `bytes` is at least the largest envelope of any unit; no memory is allocated yet. NULL: the
 * address space is refused. The unpacker must outlive the transit. */
struct fb_transit *fb_transit_new(
    struct fb_unpacker *unpacker, uint64_t bytes, fb_absent_fn absent, void *user);
void fb_transit_free(struct fb_transit *t); /* waits for what is in flight; NULL is fine */

/* The matrices will be used in this order, after those of the same pass scheduled before. Begins to
 * `prefetch`, or drops what was prefetched. */
void fb_transit_schedule(
    struct fb_transit *t, const struct fb_expert_use *uses, int n, bool prefetch);

/* The ids of the weight's group are known: n experts must be read, for this weight and those of the
 * group that are scheduled after it. `n_used` of the group's experts are used in all. */
void fb_transit_need(struct fb_transit *t, int weight, const int *experts, int n, int n_used);

/* One expert's part that has been read. */
struct fb_unit {
    int expert;
    const void *raw; /* the file's bytes */
    int entry;       /* for release */
};

/* Acquires up to `max` needed units of the weight, in any order, at multiples of fb_weight_envelope
 * from the first; blocks until there is one. Returns their number; 0: each has been acquired; -1: a
 * read failed or its bytes may not be used. All units acquired before must have been released. */
int fb_transit_acquire(
    struct fb_transit *t, int weight, struct fb_unit *units, int max, struct forebay_error *err);

/* Frees the unit's memory. */
void fb_transit_release(struct fb_transit *t, const struct fb_unit *unit);

/* The computation is over: drops all that was read and not used. */
void fb_transit_finish(struct fb_transit *t);

uint64_t fb_transit_bytes(const struct fb_transit *t);

/* Allocates the memory, which must precede its use; gives it back, after fb_transit_finish. */
void fb_transit_populate(struct fb_transit *t);
void fb_transit_discard(struct fb_transit *t);

const struct fb_stream_stats *fb_transit_stats(const struct fb_transit *t);

#endif
