/*
 * prefetch.h - reads of experts that lookahead says will be needed.
 *
 * For each group there is a list of the experts that its next lease will probably need. They get
 * slots at once, protected from eviction (C5), and are read with low priority, as far as loads are
 * free:
 *
 *      fb_stream_prefetch --> slots, prefetch reads ... --> the lease begins --> promote: in use
 *                                                                          \--> cancel: the others
 */
#ifndef FB_STREAM_PREFETCH_H
#define FB_STREAM_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

struct fb_stream;

/* The group's next lease will probably need these experts, the likeliest first. Missing parts are
 * read while the disk has nothing more urgent to do. None of the experts is evicted for another of
 * them. Replaces the group's list; n may be 0. Not while a lease of the group is open. */
void fb_stream_prefetch(struct fb_stream *s, int group, const int *experts, int n);

/* --- For the other files of stream/ ----------------------------------------------------------- */

/* [n_groups] empty lists. Freed with free(). */
struct fb_prefetch_list *fb_prefetch_lists_new(int n_groups);

/* Issues reads for the lists as far as loads are free, the group's own and those after it first. */
void fb_prefetch_pump(struct fb_stream *s, int group);

/* An expert that is needed now has this slot: promotes open loads of its parts. Returns whether any
 * of the parts was prefetched. */
bool fb_prefetch_promote(struct fb_stream *s, int group, int slot, uint32_t parts);

/* Empties the group's list and cancels its reads that are not in flight. */
void fb_prefetch_cancel(struct fb_stream *s, int group);

#endif
