/*
 * roles.h - what a tensor's name says about it. Pure functions; any string is fine.
 *
 *      blk.12.ffn_gate_exps.weight        enc.blk.3.attn_q.bias        token_embd.weight
 *          |  |             |                     |  |      |          |          |
 *      layer  base          suffix            layer  base   suffix     base       suffix
 *
 * The names are those of llama.cpp's LLM_TENSOR_NAMES, which all architectures share.
 */
#ifndef FB_MODEL_ROLES_H
#define FB_MODEL_ROLES_H

#include "model/catalog.h"

enum fb_role fb_role_of(const char *name);

/* The number of the block the tensor belongs to, or -1. */
int fb_layer_of(const char *name);

/* The dimension along which experts are stacked, or -1 for a tensor that is not a stack. */
int fb_expert_dim_of(const char *name);

/* True for a table of which a token uses one row (GGML's GET_ROWS). */
bool fb_is_row_table(const char *name);

#endif
