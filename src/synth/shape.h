/*
 * shape.h - from options to dimensions, and from dimensions to keys and tensors.
 */
#ifndef ST_SYNTH_SHAPE_H
#define ST_SYNTH_SHAPE_H

#include "synth/arch.h"
#include "synth/model.h"
#include "synth/quant.h"
#include "synth/synth.h"

#define ST_MAX_LAYERS  512 /* llama.cpp's own limits */
#define ST_MAX_EXPERTS 1024

struct st_dims {
    const struct st_arch *arch;
    struct st_synth_quant quant;
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
enum strata_status st_dims_resolve(
    const struct st_synth_shape *shape, struct st_dims *out, struct strata_error *err);

/* The model's keys (the vocabulary too) and tensors. `model` is initialised here. */
void st_dims_build(const struct st_dims *dims, struct st_synth_model *model);

/* Only the tensors, appended to a cleared model. */
void st_dims_tensors(const struct st_dims *dims, struct st_synth_model *model);

/* Bytes of one expert's matrices. 0 for a dense model. */
uint64_t st_dims_expert_bytes(const struct st_dims *dims);

/* "qwen3moe, 4 layers, 1024 wide, ..." */
void st_dims_describe(const struct st_dims *dims, char *buf, size_t cap);

#endif
