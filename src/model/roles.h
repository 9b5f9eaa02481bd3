/*
 * roles.h - layer, role and experts of a tensor, derived from its name. Pure functions; any string
 * is fine.
 *
 *      blk.12.ffn_gate_exps.weight        enc.blk.3.attn_q.bias        token_embd.weight
 *          |  |             |                     |  |      |          |          |
 *      layer  base          suffix            layer  base   suffix     base       suffix
 *
 * The names are those of llama.cpp's LLM_TENSOR_NAMES, which all architectures share.
 */
#ifndef FB_MODEL_ROLES_H
#define FB_MODEL_ROLES_H

#include <stdbool.h>

#define FB_ROLE_LIST(X)                                                                            \
    X(EMBEDDING, "embedding") /* token, position and type embeddings */                            \
    X(NORM, "norm")                                                                                \
    X(ATTENTION, "attention") /* also SSM, RWKV and other sequence mixers */                       \
    X(ROUTER, "router")                                                                            \
    X(EXPERT_GATE, "expert gate")                                                                  \
    X(EXPERT_UP, "expert up")                                                                      \
    X(EXPERT_DOWN, "expert down")                                                                  \
    X(EXPERT_GATE_UP, "expert gate_up")                                                            \
    X(EXPERT_AUX, "expert bias or scale")                                                          \
    X(SHARED_EXPERT, "shared expert")                                                              \
    X(DENSE_FFN, "dense ffn")                                                                      \
    X(OUTPUT, "output")                                                                            \
    X(OTHER, "other")

enum fb_role {
#define FB_ROLE_ENUM(name, text) FB_ROLE_##name,
    FB_ROLE_LIST(FB_ROLE_ENUM)
#undef FB_ROLE_ENUM
        FB_ROLE_COUNT
};

const char *fb_role_name(enum fb_role role);

/* FB_ROLE_OTHER for a name that no rule knows. */
enum fb_role fb_role_of(const char *name);

/* The number of the block the tensor belongs to, or -1. */
int fb_layer_of(const char *name);

/* The dimension along which experts are stacked, or -1 for a tensor that is not a stack. */
int fb_expert_dim_of(const char *name);

/* True for a table of which a token uses one row (GGML's GET_ROWS). */
bool fb_is_row_table(const char *name);

#endif
