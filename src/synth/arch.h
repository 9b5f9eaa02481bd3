/*
 * arch.h - the tensors and keys that llama.cpp expects of each architecture, as one table.
 *
 * An architecture is a row: flags for the tensors of its layers, ratios for its usual sizes, and
 * keys that only it needs. shape.c turns a row and a set of dimensions into tensors, so an
 * architecture that combines known parts in a new way needs only one more row.
 */
#ifndef FB_SYNTH_ARCH_H
#define FB_SYNTH_ARCH_H

#include "forebay.h"

enum fb_arch_flag {
    /* attention */
    ARCH_QKV_FUSED = 1 << 0, /* attn_qkv */
    ARCH_QKV_BIAS = 1 << 1,
    ARCH_O_BIAS = 1 << 2,
    ARCH_QK_NORM = 1 << 3,     /* per head */
    ARCH_QK_NORM_ALL = 1 << 4, /* over all heads */
    ARCH_SINKS = 1 << 5,
    ARCH_MLA = 1 << 6, /* multi-head latent attention */
    ARCH_MHA = 1 << 7, /* as many KV heads as heads */
    /* norms */
    ARCH_NO_PRE_NORM = 1 << 8, /* neither attn_norm nor ffn_norm */
    ARCH_NO_FFN_NORM = 1 << 9,
    ARCH_FFN_NORM_IS_POST = 1 << 10, /* the FFN's norm is named post_attention_norm */
    ARCH_POST_NORMS = 1 << 11,       /* post_attention_norm and post_ffw_norm */
    ARCH_ATTN_OUT_NORM = 1 << 12,
    ARCH_LAYER_OUT_NORM = 1 << 13,
    ARCH_NORM_BIAS = 1 << 14,
    /* FFN */
    ARCH_FFN_NO_GATE = 1 << 15,
    ARCH_FFN_GATE_IN_UP = 1 << 16, /* ffn_up is twice as high */
    ARCH_FFN_BIAS = 1 << 17,
    ARCH_FFN_AND_EXPERTS = 1 << 18, /* a small dense FFN next to the experts */
    /* experts */
    ARCH_ONE_FF_KEY = 1 << 19,       /* experts are feed_forward_length wide */
    ARCH_EXPERT_BIAS = 1 << 20,      /* router, gate, up and down */
    ARCH_PROBS_BIAS = 1 << 21,       /* exp_probs_b */
    ARCH_SHARED_FF_KEY = 1 << 22,    /* expert_shared_feed_forward_length */
    ARCH_SHARED_GATE = 1 << 23,      /* ffn_gate_inp_shexp */
    ARCH_CAN_FUSE_EXPERTS = 1 << 24, /* ffn_gate_up_exps */
    /* ends */
    ARCH_TIED = 1 << 25, /* no output matrix */
    ARCH_OUTPUT_BIAS = 1 << 26,
    ARCH_POSITION_EMBD = 1 << 27,
    ARCH_LAYER_NORM = 1 << 28, /* layer_norm_epsilon, not layer_norm_rms_epsilon */
    ARCH_DELTA_NET = 1 << 29,  /* every other layer is a gated delta net */
    ARCH_MAMBA = 1 << 30,      /* every other layer is a Mamba mixer */
};

/* A key without the "ARCH." in front; kind 'u', 'f' or 'b'. */
struct fb_arch_key {
    const char *key;
    char kind;
    double value;
};

struct fb_arch {
    const char *name; /* as given by the user */
    const char *gguf; /* general.architecture; NULL: the name */
    uint32_t flags;
    int experts; /* usual number; 0: dense */
    int experts_used;
    int shared_experts; /* usual number; 0: the architecture has none */
    int dense_layers;   /* leading layers without experts */
    int ff_eighths;     /* usual width of the FFN or of one expert, in eighths of the embedding */
    bool one_shared;    /* always exactly one shared expert */
    int layer_step;     /* the number of layers must be a multiple of it; 0: any */
    const char *type;   /* usual tensor type; NULL: Q4_K */
    struct fb_arch_key keys[4];
};

/* NULL when the name is unknown. */
const struct fb_arch *fb_arch_find(const char *name);

#endif
