/* shape.h - the dimensions of a synthetic model, and its keys and tensors. */
#ifndef FB_SYNTH_SHAPE_H
#define FB_SYNTH_SHAPE_H

#include "synth/arch.h"
#include "synth/gguf_model.h"
#include "synth/quant.h"

struct fb_dims {
    const struct fb_arch *arch;
    struct fb_synth_quant quant;
    int layers;
    int embd;
    int heads;
    int kv_heads;
    int head_dim;
    int ff;        /* neurons of a dense layer's FFN */
    int expert_ff; /* neurons of one expert; 0: dense model */
    int experts;
    int used;   /* experts per token */
    int shared; /* shared experts */
    int dense_layers;
    int vocab;
    int ctx;
    bool fused; /* gate and up experts in one tensor */
    /* multi-head latent attention */
    int q_rank, kv_rank, rope, nope, v_dim;
};

/* Initialises `model` with all keys, those of the vocabulary too, and all tensors. */
void fb_dims_build(const struct fb_dims *dims, struct fb_synth_model *model);

/* Appends only the tensors, to a cleared model. */
void fb_dims_tensors(const struct fb_dims *dims, struct fb_synth_model *model);

/* Bytes of one expert's matrices. 0 for a dense model. */
uint64_t fb_dims_expert_bytes(const struct fb_dims *dims);

/* "qwen3moe, 4 layers, 1024 wide, ..." */
void fb_dims_describe(const struct fb_dims *dims, char *buf, size_t cap);

#endif
