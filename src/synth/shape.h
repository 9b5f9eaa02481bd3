/*
 * shape.h - from options to dimensions, and from dimensions to keys and tensors.
 */
#ifndef FB_SYNTH_SHAPE_H
#define FB_SYNTH_SHAPE_H

#include "synth/arch.h"
#include "synth/gguf_model.h"
#include "synth/quant.h"
#include "synth/synth.h"

#define FB_MAX_LAYERS  512 /* llama.cpp's own limits */
#define FB_MAX_EXPERTS 1024

struct fb_dims {
    const struct fb_arch *arch;
    struct fb_synth_quant quant;
    int layers;
    int embd;
    int heads;
    int kv_heads;
    int head_dim;
    int ff;        /* of a dense layer */
    int expert_ff; /* of one expert; 0: dense model */
    int experts;
    int used;
    int shared;
    int dense_layers;
    int vocab;
    int ctx;
    bool fused;
    /* latent attention */
    int q_rank, kv_rank, rope, nope, v_dim;
};

/* Chooses what the options leave open and checks the rest. */
enum forebay_status fb_dims_resolve(
    const struct fb_synth_shape *shape, struct fb_dims *out, struct forebay_error *err);

/* The model's keys (the vocabulary too) and tensors. `model` is initialised here. */
void fb_dims_build(const struct fb_dims *dims, struct fb_synth_model *model);

/* Only the tensors, appended to a cleared model. */
void fb_dims_tensors(const struct fb_dims *dims, struct fb_synth_model *model);

/* Bytes of one expert's matrices. 0 for a dense model. */
uint64_t fb_dims_expert_bytes(const struct fb_dims *dims);

/* "qwen3moe, 4 layers, 1024 wide, ..." */
void fb_dims_describe(const struct fb_dims *dims, char *buf, size_t cap);

#endif
