/*
 * transit.h - experts on their way through memory: a batch's misses are read in the order of their
 * use into a ring of memory, computed with, and gone. Each is read once; what the cache holds stays.
 *
 *      oldest                                                        youngest
 *      [taken][read][read] [skipped] [being read] | [being read][being read] ... room
 *        layer 3 gate: ids are known, so its        layer 4 gate, foretold: all experts that are
 *        misses are; then up, then down             not in slots
 *
 * Reads run ahead across the weights of a layer and into later layers as far as the memory goes.
 * For a layer whose ids are not known yet, the absent experts are read in order, if the batch is so
 * large that most of them will be needed. When the ids come, those not needed are skipped and the
 * rest stays.
 *
 * All units of a weight take the same room, so that units read one after another lie at equal
 * distances: what is taken at once can be computed with as one stack.
 *
 * Threads: belongs to the stream's thread. Reads are issued only in calls of this interface.
 */
#ifndef FB_STREAM_TRANSIT_H
#define FB_STREAM_TRANSIT_H

#include "stream/unpack.h"

struct fb_transit;

/* One expert matrix of a coming computation: how many rows of tokens, of how many experts each. */
struct fb_expert_use {
    int weight, tokens, picks;
};

/* Whether reading is the only way to have the expert of the group. */
typedef bool (*fb_absent_fn)(void *user, int group, int expert);

/* `bytes` is at least the largest envelope of any unit. The memory is taken now. NULL if the address
 * space is refused. */
struct fb_transit *fb_transit_new(
    struct fb_unpacker *unpacker, uint64_t bytes, fb_absent_fn absent, void *user);
void fb_transit_free(struct fb_transit *t); /* waits for what is in flight */

/* The matrices will be used in this order, after those of the same pass that came before. Reading
 * begins. */
void fb_transit_schedule(struct fb_transit *t, const struct fb_expert_use *uses, int n);

/* The ids of the weight's group are known: n experts must be read, for this weight and those of the
 * group that are expected after it. `n_used` of the group's experts are used in all. */
void fb_transit_need(struct fb_transit *t, int weight, const int *experts, int n, int n_used);

/* One expert's part that has been read. */
struct fb_unit {
    int expert;
    const void *raw; /* the file's bytes */
    int entry;       /* for release */
};

/* Takes up to `max` needed units of the weight, in any order, at equal distances of
 * fb_weight_envelope; blocks until there is one. 0: each of them has been taken; -1: a read failed,
 * or what it brought may not be used. All that was taken before must have been released. */
int fb_transit_take(
    struct fb_transit *t, int weight, struct fb_unit *units, int max, struct forebay_error *err);

/* The unit's memory is free again. */
void fb_transit_release(struct fb_transit *t, const struct fb_unit *unit);

/* The computation is over: what was read in vain is dropped. */
void fb_transit_finish(struct fb_transit *t);

uint64_t fb_transit_bytes(const struct fb_transit *t);

struct fb_transit_stats {
    uint64_t demand_bytes;        /* issued when the ids were known */
    uint64_t prefetch_bytes;      /* before */
    uint64_t prefetch_used_bytes; /* of these, taken */
    uint64_t stall_ns, prefetch_stall_ns;
};
const struct fb_transit_stats *fb_transit_stats(const struct fb_transit *t);

#endif
