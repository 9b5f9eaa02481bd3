/*
 * weights.h - the weights that Forebay holds itself, grouped the way they are read and kept.
 *
 * A *unit* is what is read and kept at once: a whole tensor (dense), or one expert of a stacked
 * tensor. The expert tensors of one layer with the same number of experts form a *group*; each of
 * them is a *part* of it (gate, up, down). A slot of the group has room for one unit of each part.
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
#define FB_CLAIM_MIN_BYTES 4096 /* smaller matrices are not worth a place; llama.cpp keeps them */

/* How a unit gets from the file's bytes to the form that is computed with. */
enum fb_unpack_kind {
    FB_UNPACK_DIRECT, /* read straight into place */
    FB_UNPACK_COPY,   /* read next to it and copied: the file's alignment differs per expert */
    FB_UNPACK_REPACK, /* read next to it and repacked into the layout the CPU computes with */
};

/* What the caller claims for Forebay: one tensor, and how one unit of it is kept. */
struct fb_claim {
    int tensor;          /* index into the catalogue */
    uint64_t unit_bytes; /* of one unit in the form it is computed with */
    bool transform;      /* that form differs from the model's */
    /* Another file that has the units in that form: unit u at offset + u * step, both multiples of
     * 4096. NULL: they are read from the model. */
    struct fb_file *file;
    uint64_t offset, step;
};

struct fb_weight {
    int tensor;
    int group; /* -1: dense */
    int part;
    struct fb_file *file;  /* that units are read from; NULL: the model's */
    uint64_t offset, step; /* unit u is at offset + u * step */
    uint64_t file_bytes;   /* of one unit, in the file */
    uint64_t unit_bytes;
    bool transformed; /* what is computed with is not as in the model */
    enum fb_unpack_kind arrival;
    uint64_t stride; /* memory one unit takes, from one slot to the next */
    uint64_t delta;  /* where in it the unit's first byte is */
};

struct fb_group {
    int layer;
    int n_expert;
    int n_parts;
    int weight[FB_MAX_PARTS];
    uint64_t slot_bytes; /* strides of all parts */
};

/* All of its parts, as bits. */
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
    uint64_t dense_bytes;    /* strides of all dense weights */
    uint64_t expert_bytes;   /* slot_bytes x n_expert over all groups */
};

/* Groups the claims (any order, no tensor twice). The catalogue must outlive the result.
 * A tensor with n_expert > 1 and an expert role becomes part of a group; all others are dense. */
struct fb_weights *fb_weights_new(
    const struct fb_catalog *catalog, const struct fb_claim *claims, int n_claims);
void fb_weights_free(struct fb_weights *weights);

/* The weights as a run would claim them, from the catalogue alone: every matrix of the layers that
 * generate but the embedding tables. As in the file, or, with `repack`, as if this CPU had another
 * layout of the same size for every quantised one. For judging a model without loading it. */
struct fb_weights *fb_weights_expected(const struct fb_catalog *catalog, bool repack);

/* True when fb_weights_new would put the tensor into a group. */
bool fb_weights_is_expert(const struct fb_tensor *tensor);

/* Stride of a slot that any group may use, for one part: the widest, and a whole number of blocks
 * where one of them is read straight into place. */
uint64_t fb_weights_shared_stride(const struct fb_weights *weights, int part);

/* File range of a unit (`expert` is 0 for dense weights). */
uint64_t fb_weight_offset(const struct fb_weights *weights, int weight, int expert);
struct fb_file *fb_weight_file(const struct fb_weights *weights, int weight);

/* Bytes of a buffer that any unit of the weight can be read into (its io envelope, worst case). */
uint64_t fb_weight_envelope(const struct fb_weights *weights, int weight);

#endif
