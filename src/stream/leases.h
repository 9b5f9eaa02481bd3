/*
 * leases.h - the experts of one layer while they are in use.
 *
 *      begin: experts that are present are pinned, the others get slots and reads are issued
 *        ---> wait(part): that part of every expert is present ---> ... compute ...
 *        ---> end: unpinned
 *
 * Slots stand in for experts: lease->slots[i] holds lease->experts[i], and fb_stream_slots
 * (stream.h) says where slots are. Two leases may be open at once (one reads while the other is
 * computed with), as long as their experts together fit into the pool. The same expert may be in
 * both.
 *
 * All experts of a lease have slots at once; a batch that needs too many uses sets (sets.h).
 */
#ifndef FB_STREAM_LEASES_H
#define FB_STREAM_LEASES_H

#include <stdbool.h>
#include <stdint.h>

#include "forebay.h"

struct fb_stream;

/* Initialise it to {.group = -1}. begin fills it, end closes it and keeps the arrays for the next
 * begin. */
struct fb_lease {
    int group; /* -1: not open */
    uint32_t parts;
    int n, cap;
    int *experts;
    int *slots;    /* slots[i] holds experts[i] */
    int next_load; /* reads not issued yet: index into part-major (part, expert) order */
    int n_misses;  /* experts that were absent in part, or prefetched for this lease */
};

/* Maximum number of experts that the open leases of this group may have together. */
int fb_stream_lease_limit(const struct fb_stream *s, int group);

/* Opens a lease on `parts` of n > 0 distinct experts. uses[i] is how many tokens need experts[i]
 * (counted as requests); `uses` NULL: the lease is not counted, and the policy learns nothing from
 * it. Issues reads and waits for none, except when all slots are pinned by reads of earlier leases.
 * */
void fb_stream_lease_begin(struct fb_stream *s, struct fb_lease *lease, int group,
    const int *experts, const int *uses, int n, uint32_t parts);

/* True when the part is present for every expert of the lease. Never blocks. */
bool fb_stream_lease_ready(struct fb_stream *s, const struct fb_lease *lease, int part);

/* Blocks until it is. On failure (a read of this or another lease failed) the lease stays open, and
 * must still be ended. */
enum forebay_status fb_stream_lease_wait(
    struct fb_stream *s, struct fb_lease *lease, int part, struct forebay_error *err);

/* Closes the lease. Reads that nobody waited for go on, and their slots stay pinned (S2). */
void fb_stream_lease_end(struct fb_stream *s, struct fb_lease *lease);

void fb_lease_clear(struct fb_lease *lease); /* frees the arrays of a closed lease */

#endif
