/*
 * weights.h - the weights that Forebay holds itself, in units and groups.
 *
 * A *unit* is what is read at once: a whole tensor (dense), or one expert of a stacked tensor. The
 * expert tensors of one layer with the same number of experts form a *group*; each of them is a
 * *part* of it (gate, up, down). A *slot* has room for one unit of each part.
 *
 *      group (layer 3)      part 0: gate      part 1: up       part 2: down
 *        expert 0            [unit]            [unit]           [unit]
 *        expert 1            [unit]            [unit]           [unit]    <- one slot holds a row
 *
 * Immutable once built; safe to read from any thread.
 */
#ifndef FB_MODEL_WEIGHTS_H
#define FB_MODEL_WEIGHTS_H

#include "model/catalog.h"

#define FB_MAX_PARTS       8
#define FB_CLAIM_MIN_BYTES 4096 /* smaller matrices are not worth it; llama.cpp holds them */

/* How a unit gets from the file's bytes to the form that is computed with. */
enum fb_unpack_kind {
    FB_UNPACK_DIRECT, /* as it is: read straight into the slot */
    FB_UNPACK_COPY,   /* read into staging and copied: the file's alignment differs per expert, or
                       * leaves gaps between slots that must have none */
    FB_UNPACK_REPACK, /* read into staging and repacked into the layout the CPU computes with */
};

/* One tensor that Forebay holds instead of llama.cpp, and the form of its units. */
struct fb_claim {
    int tensor;          /* index into the catalogue */
    uint64_t unit_bytes; /* of one unit in the form it is computed with */
    bool transform;      /* that form differs from the form in the model */
    /* A sidecar with the units in that form: unit u is at offset + u * step, both multiples of
     * FB_BLOCK_BYTES. NULL: units are read from the model. */
    struct fb_file *file;
    uint64_t offset, step;
    /* Of an expert: units lie in slots without a gap, the first one at the beginning of a page, as
     * a device expects a stack of matrices. */
    bool packed;
};

struct fb_weight {
    int tensor;
    int group; /* -1: dense */
    int part;
    struct fb_file *file;  /* a sidecar that units are read from; NULL: the model */
    uint64_t offset, step; /* unit u is at offset + u * step */
    uint64_t file_bytes;   /* of one unit, in the file */
    uint64_t unit_bytes;
    bool transformed; /* the form that is computed with differs from the model's */
    enum fb_unpack_kind unpack;
    uint64_t stride; /* memory for one unit, from one slot to the next */
    uint64_t delta;  /* offset in it of the unit's first byte */
};

/* Whether slots of this stride are a stack of the weight's units without gaps. */
static inline bool fb_weight_is_packed(const struct fb_weight *weight, uint64_t stride)
{
    return weight->delta == 0 && weight->unit_bytes == stride;
}

struct fb_group {
    int layer;
    int n_expert;
    int n_parts;
    int weight[FB_MAX_PARTS];
    uint64_t slot_bytes; /* sum of the parts' strides */
};

/* The set of all its parts, as bits. */
static inline uint32_t fb_group_parts(const struct fb_group *group)
{
    return (1u << group->n_parts) - 1;
}

struct fb_weights {
    const struct fb_catalog *catalog;
    int n_weights;
    struct fb_weight *weights; /* in catalogue order */
    int n_groups;
    struct fb_group *groups; /* by layer */
    uint64_t dense_bytes;    /* sum of the strides of all dense weights */
    uint64_t expert_bytes;   /* sum of slot_bytes x n_expert of all groups */
};

/* Groups the claims (in any order, no tensor twice). The catalogue must outlive the result. A
 * tensor with n_expert > 1 and an expert role becomes part of a group; all others are dense. */
struct fb_weights *fb_weights_new(
    const struct fb_catalog *catalog, const struct fb_claim *claims, int n_claims);
struct fb_weights *fb_weights_copy(const struct fb_weights *weights);
void fb_weights_free(struct fb_weights *weights);

/* The weights that a run would probably claim, from the catalogue alone: every matrix of the layers
 * that generate, except embedding tables. In the form of the file or, with `repack`, as if this CPU
 * had a layout of its own, of the same size, for every quantised type. For simulations. */
struct fb_weights *fb_weights_expected(const struct fb_catalog *catalog, bool repack);

/* True when fb_weights_new would put the tensor into a group. */
bool fb_weights_is_expert(const struct fb_tensor *tensor);

/* Stride of one part in a slot that any group may use: the largest stride of that part, rounded up
 * to whole blocks if any of them is read straight into the slot. */
uint64_t fb_weights_shared_stride(const struct fb_weights *weights, int part);

/* File range of a unit (`expert` is 0 for dense weights). */
uint64_t fb_weight_offset(const struct fb_weights *weights, int weight, int expert);
struct fb_file *fb_weight_file(const struct fb_weights *weights, int weight);

/* Bytes of a buffer that any unit of the weight can be read into (its largest io envelope). */
uint64_t fb_weight_envelope(const struct fb_weights *weights, int weight);

#endif
