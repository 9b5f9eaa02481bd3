/*
 * weights.c - builds groups from claims, and computes where units are in the files and in memory.
 *
 * A unit is read straight into its slot (DIRECT) if the bytes in the file are those that are
 * computed with, and if every unit begins at the same distance `delta` after a multiple of the
 * block: then all slots can be laid out with the same stride.
 * Where slots must have no gaps between units, that works only for whole blocks.
 *
 *      file   ...|  block  |  block  |...           slot   |- delta -|== unit ==|      |
 *                     |== unit ==|                         |--------- stride ----------|
 */
#include "model/weights.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "model/meta.h"

#include "ggml.h"

bool fb_weights_is_expert(const struct fb_tensor *tensor)
{
    switch (tensor->role) {
    case FB_ROLE_EXPERT_GATE:
    case FB_ROLE_EXPERT_UP:
    case FB_ROLE_EXPERT_DOWN:
    case FB_ROLE_EXPERT_GATE_UP:
        return tensor->matrix && tensor->n_expert > 1;
    default:
        return false;
    }
}

static int by_tensor(const void *a, const void *b)
{
    const struct fb_claim *x = a, *y = b;
    return (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

static struct fb_weight describe(const struct fb_tensor *tensor, const struct fb_claim *claim)
{
    struct fb_weight w = {.tensor = claim->tensor,
        .group = -1,
        .unit_bytes = claim->unit_bytes,
        .transformed = claim->transform,
        .file = claim->file,
        .offset = claim->offset,
        .step = claim->step,
        .file_bytes = claim->unit_bytes};
    bool expert = fb_weights_is_expert(tensor);
    if (!claim->file) {
        w.offset = tensor->offset;
        w.step = w.file_bytes = expert ? tensor->expert_bytes : tensor->bytes;
    }
    /* Only if all units have the same delta can they be read straight into slots of one stride. */
    bool same_delta = !expert || w.step % FB_BLOCK_BYTES == 0;
    bool packed = expert && claim->packed;
    bool gaps = w.offset % FB_BLOCK_BYTES != 0 || w.unit_bytes % FB_BLOCK_BYTES != 0;
    if (claim->transform && !claim->file) {
        w.unpack = FB_UNPACK_REPACK;
    } else {
        w.unpack = same_delta && !(packed && gaps) ? FB_UNPACK_DIRECT : FB_UNPACK_COPY;
    }
    if (w.unpack == FB_UNPACK_DIRECT) {
        w.delta = w.offset % FB_BLOCK_BYTES;
        w.stride = fb_round_up(w.delta + w.file_bytes, FB_BLOCK_BYTES);
    } else {
        w.stride = fb_round_up(w.unit_bytes, packed ? 1 : expert ? 64 : FB_BLOCK_BYTES);
    }
    return w;
}

static struct fb_group *group_for(struct fb_weights *ws, int layer, int n_expert)
{
    for (int g = 0; g < ws->n_groups; g++) {
        struct fb_group *group = &ws->groups[g];
        if (group->layer == layer && group->n_expert == n_expert && group->n_parts < FB_MAX_PARTS) {
            return group;
        }
    }
    struct fb_group *group = &ws->groups[ws->n_groups++];
    *group = (struct fb_group){.layer = layer, .n_expert = n_expert};
    return group;
}

static int by_layer(const void *a, const void *b)
{
    const struct fb_group *x = a, *y = b;
    if (x->layer != y->layer) {
        return x->layer < y->layer ? -1 : 1;
    }
    return (x->weight[0] > y->weight[0]) - (x->weight[0] < y->weight[0]);
}

struct fb_weights *fb_weights_new(
    const struct fb_catalog *catalog, const struct fb_claim *claims, int n_claims)
{
    struct fb_claim *sorted = fb_xcalloc((size_t)n_claims, sizeof *sorted);
    if (n_claims > 0) {
        memcpy(sorted, claims, (size_t)n_claims * sizeof *sorted);
        qsort(sorted, (size_t)n_claims, sizeof *sorted, by_tensor);
    }

    struct fb_weights *ws = fb_xcalloc(1, sizeof *ws);
    ws->catalog = catalog;
    ws->n_weights = n_claims;
    ws->weights = fb_xcalloc((size_t)n_claims, sizeof *ws->weights);
    ws->groups = fb_xcalloc((size_t)n_claims, sizeof *ws->groups);
    for (int i = 0; i < n_claims; i++) {
        const struct fb_tensor *tensor = &catalog->tensors[sorted[i].tensor];
        FB_ASSERT(i == 0 || sorted[i].tensor != sorted[i - 1].tensor);
        ws->weights[i] = describe(tensor, &sorted[i]);
        if (fb_weights_is_expert(tensor)) {
            struct fb_group *group = group_for(ws, tensor->layer, tensor->n_expert);
            ws->weights[i].part = group->n_parts;
            group->weight[group->n_parts++] = i;
            group->slot_bytes += ws->weights[i].stride;
        } else {
            ws->dense_bytes += ws->weights[i].stride;
        }
    }
    qsort(ws->groups, (size_t)ws->n_groups, sizeof *ws->groups, by_layer);
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        for (int p = 0; p < group->n_parts; p++) {
            ws->weights[group->weight[p]].group = g;
        }
        ws->expert_bytes += group->slot_bytes * (uint64_t)group->n_expert;
    }
    free(sorted);
    return ws;
}

struct fb_weights *fb_weights_copy(const struct fb_weights *ws)
{
    struct fb_weights *copy = fb_xmalloc(sizeof *copy);
    *copy = *ws;
    copy->weights = fb_xcalloc((size_t)ws->n_weights + 1, sizeof *copy->weights);
    copy->groups = fb_xcalloc((size_t)ws->n_groups + 1, sizeof *copy->groups);
    memcpy(copy->weights, ws->weights, (size_t)ws->n_weights * sizeof *copy->weights);
    memcpy(copy->groups, ws->groups, (size_t)ws->n_groups * sizeof *copy->groups);
    return copy;
}

/* Layers from this number on predict further tokens (MTP); llama.cpp does not load them. */
static int generating_layers(const struct fb_catalog *catalog)
{
    uint64_t n_predict =
        catalog->meta ? fb_meta_arch_uint(catalog->meta, catalog->arch, "nextn_predict_layers", 0)
                      : 0;
    return n_predict < (uint64_t)catalog->n_layer ? catalog->n_layer - (int)n_predict
                                                  : catalog->n_layer;
}

struct fb_weights *fb_weights_expected(const struct fb_catalog *catalog, bool repack)
{
    struct fb_claim *claims = fb_xcalloc((size_t)catalog->n_tensors, sizeof *claims);
    int n = 0, n_layer = generating_layers(catalog);
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        if (t->matrix && t->bytes >= FB_CLAIM_MIN_BYTES && t->role != FB_ROLE_EMBEDDING &&
            t->layer < n_layer) {
            claims[n++] = (struct fb_claim){.tensor = i,
                .unit_bytes = fb_weights_is_expert(t) ? t->expert_bytes : t->bytes,
                .transform = repack && ggml_is_quantized((enum ggml_type)t->type)};
        }
    }
    struct fb_weights *weights = fb_weights_new(catalog, claims, n);
    free(claims);
    return weights;
}

void fb_weights_free(struct fb_weights *weights)
{
    if (weights) {
        free(weights->weights);
        free(weights->groups);
        free(weights);
    }
}

uint64_t fb_weights_shared_stride(const struct fb_weights *weights, int part)
{
    uint64_t widest = 0;
    bool direct = false;
    for (int i = 0; i < weights->n_weights; i++) {
        const struct fb_weight *w = &weights->weights[i];
        if (w->group >= 0 && w->part == part) {
            widest = fb_max(widest, w->stride);
            direct |= w->unpack == FB_UNPACK_DIRECT;
        }
    }
    return direct ? fb_round_up(widest, FB_BLOCK_BYTES) : widest;
}

uint64_t fb_weight_offset(const struct fb_weights *weights, int weight, int expert)
{
    const struct fb_weight *w = &weights->weights[weight];
    return w->offset + (uint64_t)expert * w->step;
}

struct fb_file *fb_weight_file(const struct fb_weights *weights, int weight)
{
    const struct fb_weight *w = &weights->weights[weight];
    return w->file ? w->file : weights->catalog->files[weights->catalog->tensors[w->tensor].file];
}

uint64_t fb_weight_envelope(const struct fb_weights *weights, int weight)
{
    return fb_round_up(weights->weights[weight].file_bytes, FB_BLOCK_BYTES) + FB_BLOCK_BYTES;
}
