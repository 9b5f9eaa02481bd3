/*
 * tier.h - which experts are in the slots of a faster memory above the stream's: a GPU's.
 *
 *      tier     GPU     slots of each group     a hit here asks nothing of the levels below
 *      stream   RAM     slots of each group     is asked for what the tier misses
 *               disk
 *
 * Bookkeeping only, like the cache that it is made of: no memory, no clock. A run and a simulation
 * that make the same calls get the same answers.
 *
 *      open(layer's experts) ---> hits are pinned
 *          all fit               the missing ones get slots: fill each part ---> ... ---> close
 *          not all fit           those get slots that are worth more than what is in them; the
 *                                others pass by
 *
 * Threads: belongs to one thread at a time. Numbers out of range abort.
 */
#ifndef FB_CACHE_TIER_H
#define FB_CACHE_TIER_H

#include <stdbool.h>
#include <stdint.h>

struct fb_tier;

/* Group g has n_experts[g] experts of n_parts[g] parts, and n_slots[g] slots; 0: it is not in the
 * tier. The arrays are copied. */
struct fb_tier *fb_tier_new(
    int n_groups, const int *n_experts, const int *n_parts, const int *n_slots);
void fb_tier_free(struct fb_tier *tier); /* NULL is fine */

int fb_tier_slots(const struct fb_tier *tier, int group);

/* The expert all of whose parts are in the slot, or -1. */
int fb_tier_expert(const struct fb_tier *tier, int group, int slot);

/* Gives a group of the tier n slots (1..n_experts); what is in slots from n on is dropped. Not
 * while a step of it is open. */
void fb_tier_resize(struct fb_tier *tier, int group, int n);

/* The experts of a layer that one step (a token, or a batch) needs. */
struct fb_tier_need {
    const int *experts; /* [n] distinct */
    const int *uses;    /* [n] tokens that need each */
    int n;
};

/* Begins a step of the group, which must be in the tier. slot_of[e] becomes the slot of each needed
 * expert e that has one, else -1 (also of those that are not needed). missing[0 .. result) are the
 * experts to be asked for below, in the order of need->experts; slots[i] is the slot that
 * missing[i] gets, to be filled, or -1, and lost[i] the expert that has lost it, all of whose parts
 * are still there, or -1. *fits: all needed experts have slots. If not, slot_of tells only of those
 * that were there before. */
int fb_tier_open(struct fb_tier *tier, int group, const struct fb_tier_need *need, int *slot_of,
    int *missing, int *slots, int *lost, bool *fits);

/* The part of the slot's expert is there. Until all parts are, the expert counts as absent. */
void fb_tier_fill(struct fb_tier *tier, int group, int slot, int part);

/* Ends the step. Does nothing when none is open. */
void fb_tier_close(struct fb_tier *tier, int group);

struct fb_tier_stats {
    uint64_t requests; /* expert and token */
    uint64_t hits;
};
struct fb_tier_stats fb_tier_stats(const struct fb_tier *tier);

#endif
