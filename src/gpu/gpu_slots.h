/*
 * gpu_slots.h - slots for experts that a GPU computes with, and the transit for experts of a batch.
 * In one of two forms:
 *
 *   copies: slots in the GPU's memory
 *      group on the GPU    part 0  [slot 0][slot 1] ... [slot n - 1]     a stack of n matrices
 *                          part 1  [slot 0][slot 1] ...
 *      transit             any weight's units, [0] ... [k - 1][spare]
 *
 * An id that is one more than the transit has finds the spare unit (masked.h). Which expert is in
 * which slot is the tier's business (cache/tier.h). Units come from the stream, which is the level
 * below: RAM, then disk.
 *
 *   shared: the stream's own slots, where the GPU's memory is the machine's (gpu_shared.h). There
 *   is no tier, and nothing is copied but what passes through the transit.
 */
#ifndef FB_GPU_GPU_SLOTS_H
#define FB_GPU_GPU_SLOTS_H

#include "stream/levels.h"
#include "ggml-backend.h"
#include "ggml.h"

struct fb_binding;
struct fb_gpu_shared;
struct fb_gpu_slots;

/* Copies: equally many slots for each group that the binding has given to the GPU, in about `bytes`
 * of the memory behind `buft`; never more than experts. NULL when the memory is refused. */
struct fb_gpu_slots *fb_gpu_slots_new(
    const struct fb_binding *binding, ggml_backend_buffer_type_t buft, uint64_t bytes);

/* Shared: the stream's slots, which the binding was told of (fb_binding_share_slots), and a transit
 * of `bytes`. NULL when the memory for the transit is refused. */
struct fb_gpu_slots *fb_gpu_slots_new_shared(
    struct fb_binding *binding, ggml_backend_dev_t device, uint64_t bytes);

void fb_gpu_slots_free(struct fb_gpu_slots *slots); /* NULL is fine */

/* Gives slots up, or regains them, as the memory of the device allows (not shared). While no graph
 * is computed: all stacks may have changed afterwards. */
void fb_gpu_slots_adapt(struct fb_gpu_slots *slots, struct fb_levels *levels);

/* Which experts are in the slots. Shared: NULL, the stream knows. */
struct fb_tier *fb_gpu_slots_tier(const struct fb_gpu_slots *slots);

/* NULL: copies. */
struct fb_gpu_shared *fb_gpu_slots_shared(const struct fb_gpu_slots *slots);

int fb_gpu_slots_total(const struct fb_gpu_slots *slots); /* of all groups */

/* The weight's slots as a tensor [columns, rows, slots]. Shared: as fb_gpu_shared_stack. */
struct ggml_tensor *fb_gpu_slots_stack(const struct fb_gpu_slots *slots, int weight);

/* Copies a unit into a slot (not shared). The device must not be computing with it. */
void fb_gpu_slots_fill(struct fb_gpu_slots *slots, int weight, int slot, const void *unit);

/* The opposite. The device must have computed the last fill of it. */
void fb_gpu_slots_read(struct fb_gpu_slots *slots, int weight, int slot, void *unit);

/* The transit as a tensor [columns, rows, units] of the weight's units, at least one; the spare one
 * is behind them. All weights' transits are the same memory. */
struct ggml_tensor *fb_gpu_slots_transit(const struct fb_gpu_slots *slots, int weight);
void fb_gpu_slots_transit_fill(struct fb_gpu_slots *slots, int weight, int index, const void *unit);

/* What was copied, and how long it took. */
struct fb_gpu_uploads {
    uint64_t bytes, ns;
    uint64_t back_bytes; /* in the opposite direction; their time is part of `ns` */
};
struct fb_gpu_uploads fb_gpu_slots_uploads(const struct fb_gpu_slots *slots);

#endif
