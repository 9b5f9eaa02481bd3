/*
 * loads.h - reads into slots. A *load* is one read of one part of one expert:
 *
 *      issue --> reading --read done--> DIRECT: verified ------------------> part present
 *                                  \--> else: waits in its staging buffer --> unpacked --^
 *
 * A load pins its slot until the part is present or the read has failed (S2). The number of loads
 * and of staging buffers is bounded; prefetches may use half of each.
 *
 * Threads: belongs to the stream's thread. Loads advance only in calls of this interface.
 */
#ifndef FB_STREAM_LOADS_H
#define FB_STREAM_LOADS_H

#include "stream/slots.h"
#include "stream/stats.h"
#include "stream/unpack.h"

#define FB_MAX_LOADS 256 /* open at once; more would only queue in the I/O engine */

struct fb_load {
    struct fb_io_request request;
    bool was_read;   /* waits to be unpacked */
    bool prefetched; /* issued before it was needed */
    int pool, slot, part, weight, expert;
    int stage; /* its staging buffer; -1: read in place */
};

struct fb_loads {
    struct fb_unpacker *unpacker;
    struct fb_io_engine *io;
    const struct fb_weights *weights;
    struct fb_slots *slots;

    struct fb_load loads[FB_MAX_LOADS];
    int order
        [FB_MAX_LOADS]; /* indices of loads: the n_open open ones, oldest first, then the free */
    int n_open;

    char *staging; /* n_stages buffers of stage_bytes */
    uint64_t stage_bytes;
    int n_stages;
    bool *stage_busy;

    bool failed;                  /* a demand read failed, and no wait has reported it yet */
    struct forebay_error error;   /* its error, if `failed` */
    struct fb_stream_stats stats; /* of reads */
};

/* Makes staging buffers from at most `staging_bytes`; *l is zeroed. False when the address space is
 * refused; *l may then only be released. Unpacker and slots must outlive *l. */
bool fb_loads_init(struct fb_loads *l, struct fb_unpacker *unpacker, struct fb_slots *slots,
    uint64_t staging_bytes);
void fb_loads_release(struct fb_loads *l); /* waits for what is in flight */

/* The open load of the part for the slot, or NULL. */
struct fb_load *fb_loads_find(struct fb_loads *l, int pool, int slot, int part);

/* Whether the part is neither present in the slot nor being loaded. */
bool fb_loads_missing(struct fb_loads *l, int pool, int slot, int part);

/* Starts reading one part of the expert in the slot. False when no load, or no staging buffer, is
 * free now. */
bool fb_loads_issue(
    struct fb_loads *l, int group, int part, int expert, int slot, enum fb_io_priority priority);

/* Examines every open load without blocking: closes those read in place, marks the others that were
 * read, and closes those that failed (a failed demand read sets l->failed). */
void fb_loads_collect(struct fb_loads *l);

/* Unpacks loads of `part` (-1: any) that were read. Returns how many. */
int fb_loads_unpack(struct fb_loads *l, int part);

/* Blocks until any read is done. `prefetched`: all reads that the caller needs were prefetches. */
void fb_loads_block(struct fb_loads *l, bool prefetched);

/* Blocks until no load is open. Parts that were read are present afterwards. */
void fb_loads_drain(struct fb_loads *l);

/* Cancels the pool's prefetches that are not in flight yet. */
void fb_loads_cancel_prefetch(struct fb_loads *l, int pool);

/* The staging memory, which is the caller's until the next fb_loads_issue. Blocks until no buffer
 * is in use. */
char *fb_loads_staging(struct fb_loads *l);
uint64_t fb_loads_staging_bytes(const struct fb_loads *l);

#endif
