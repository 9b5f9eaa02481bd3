/*
 * device_slots.h - how the memory that a device has for experts is divided: pure functions.
 *
 *      group      [slot 0][slot 1] ... [slot n - 1]
 *      transit    any weight's units, [0] ... [k - 1][spare]
 *
 * Every group gets the same number of slots, because all layers are used equally often. The spare
 * unit is for ids that name no expert (gpu/gpu_slots.h).
 */
#ifndef FB_PLAN_DEVICE_SLOTS_H
#define FB_PLAN_DEVICE_SLOTS_H

#include "model/weights.h"

struct fb_device_slots {
    uint64_t n;             /* of each group; at least 1 */
    uint64_t transit_bytes; /* at least two units */
};

/* Divides `bytes` among the groups of layers first_layer .. end_layer-1. More bytes never mean
 * fewer slots. Slots and transit never exceed the bytes, unless these are fewer than the least. */
struct fb_device_slots fb_device_slots_make(
    const struct fb_weights *weights, int first_layer, int end_layer, uint64_t bytes);

/* The least bytes that can be divided: a slot of each group, and a unit and the spare one. */
uint64_t fb_device_slots_least(const struct fb_weights *weights, int first_layer, int end_layer);

/* Where the slots are the stream's own (gpu/gpu_shared.h), the device's memory is for a transit
 * alone: its bytes, of `bytes` that are left, when the largest unit has largest_bytes; 0: too few.
 * And the least bytes that do. */
uint64_t fb_device_slots_transit(uint64_t bytes, uint64_t largest_bytes);
uint64_t fb_device_slots_least_transit(
    const struct fb_weights *weights, int first_layer, int end_layer);

/* Slots of one of these groups: never more than experts. */
int fb_device_slots_of(const struct fb_device_slots *slots, const struct fb_group *group);

/* Bytes of a slot of each of these groups. */
uint64_t fb_device_slots_each(const struct fb_weights *weights, int first_layer, int end_layer);

/* --- While the model runs --------------------------------------------------------------------- */

/* How many slots of each group to have from now on, if they may take target_bytes, `each_bytes` per
 * slot of all groups. Between 1 and `most`. Fewer than `now` at once, but more only by steps of an
 * eighth of `most`, or up to `most`, because everything is copied each time. */
int fb_device_slots_heed(int now, int most, uint64_t each_bytes, uint64_t target_bytes);

#endif
