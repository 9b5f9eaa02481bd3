/*
 * shape.c - the keys and tensors of an architecture (arch.h) with given dimensions.
 *
 * The spreads keep activations near 1 through any number of layers: a matrix preserves the size of
 * its input (1 / sqrt(row length)), norms are near 1, and the output matrix is larger, so that
 * logits differ clearly.
 */
#include "synth/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "model/limits.h"
#include "synth/vocab.h"

#include "ggml.h"
#include "gguf.h"

#define DELTA_NET_HEAD 128 /* the only head size of llama.cpp's gated delta net */
#define MAMBA_STATE    16
#define CONV_KERNEL    4

struct builder {
    const struct fb_dims *d;
    struct fb_synth_model *model;
    int layer; /* -1 outside the layers */
};

static bool has(const struct fb_dims *d, uint32_t flag)
{
    return (d->arch->flags & flag) != 0;
}

static bool is_recurrent(const struct fb_dims *d, int layer)
{
    return has(d, ARCH_DELTA_NET | ARCH_MAMBA) && layer % 2 == 0;
}

/* --- Tensors ------------------------------------------------------------------------------ */

static struct fb_synth_tensor *add(struct builder *b, enum fb_synth_part part, const char *name,
    int64_t ne0, int64_t ne1, int64_t ne2)
{
    int type = fb_synth_quant_pick(&b->d->quant, part, b->layer, b->d->layers, ne0);
    struct fb_synth_tensor *t = fb_synth_tensor_add(b->model, type, ne0, ne1, ne2);
    t->part = part;
    t->layer = b->layer;
    if (b->layer >= 0) {
        fb_synth_tensor_name(t, "blk.%d.%s", b->layer, name);
    } else {
        fb_synth_tensor_name(t, "%s", name);
    }
    return t;
}

static void matrix(struct builder *b, enum fb_synth_part part, const char *name, int64_t ne0,
    int64_t ne1, int64_t ne2)
{
    add(b, part, name, ne0, ne1, ne2)->spread = 1.0f / sqrtf((float)ne0);
}

static void vector(
    struct builder *b, const char *name, int64_t ne0, int64_t ne1, float mean, float spread)
{
    struct fb_synth_tensor *t = add(b, FB_PART_OTHER, name, ne0, ne1, 0);
    t->mean = mean;
    t->spread = spread;
}

static void bias(struct builder *b, const char *name, int64_t ne0, int64_t ne1)
{
    vector(b, name, ne0, ne1, 0.0f, 0.1f);
}

static void norm(struct builder *b, const char *name, int64_t ne0)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    vector(b, full, ne0, 0, 1.0f, 0.1f);
    if (has(b->d, ARCH_NORM_BIAS)) {
        snprintf(full, sizeof full, "%s.bias", name);
        bias(b, full, ne0, 0);
    }
}

static void latent_attention(struct builder *b)
{
    const struct fb_dims *d = b->d;
    /* llama.cpp takes models of 26 or 27 layers for DeepSeek Lite, which has one Q matrix */
    bool lite = d->layers == 26 || d->layers == 27;
    int64_t q = (int64_t)d->heads * (d->nope + d->rope);
    if (lite) {
        matrix(b, FB_PART_MATRIX, "attn_q.weight", d->embd, q, 0);
    } else {
        matrix(b, FB_PART_MATRIX, "attn_q_a.weight", d->embd, d->q_rank, 0);
        norm(b, "attn_q_a_norm", d->q_rank);
        matrix(b, FB_PART_MATRIX, "attn_q_b.weight", d->q_rank, q, 0);
    }
    matrix(b, FB_PART_MATRIX, "attn_kv_a_mqa.weight", d->embd, d->kv_rank + d->rope, 0);
    norm(b, "attn_kv_a_norm", d->kv_rank);
    matrix(b, FB_PART_MATRIX, "attn_k_b.weight", d->nope, d->kv_rank, d->heads);
    matrix(b, FB_PART_ATTN_V, "attn_v_b.weight", d->kv_rank, d->v_dim, d->heads);
    matrix(b, FB_PART_ATTN_OUT, "attn_output.weight", (int64_t)d->heads * d->v_dim, d->embd, 0);
}

static void qkv(struct builder *b, int64_t q, int64_t kv)
{
    const struct fb_dims *d = b->d;
    if (has(d, ARCH_QKV_FUSED)) {
        matrix(b, FB_PART_MATRIX, "attn_qkv.weight", d->embd, q + 2 * kv, 0);
        if (has(d, ARCH_QKV_BIAS)) {
            bias(b, "attn_qkv.bias", q + 2 * kv, 0);
        }
        return;
    }
    matrix(b, FB_PART_MATRIX, "attn_q.weight", d->embd, q, 0);
    matrix(b, FB_PART_MATRIX, "attn_k.weight", d->embd, kv, 0);
    matrix(b, FB_PART_ATTN_V, "attn_v.weight", d->embd, kv, 0);
    if (has(d, ARCH_QKV_BIAS)) {
        bias(b, "attn_q.bias", q, 0);
        bias(b, "attn_k.bias", kv, 0);
        bias(b, "attn_v.bias", kv, 0);
    }
}

static void plain_attention(struct builder *b)
{
    const struct fb_dims *d = b->d;
    int64_t q = (int64_t)d->heads * d->head_dim;
    int64_t kv = (int64_t)d->kv_heads * d->head_dim;
    /* beside a gated delta net, half of Q is the output's gate */
    qkv(b, has(d, ARCH_DELTA_NET) ? 2 * q : q, kv);
    if (has(d, ARCH_QK_NORM | ARCH_QK_NORM_ALL)) {
        bool all = has(d, ARCH_QK_NORM_ALL);
        norm(b, "attn_q_norm", all ? q : d->head_dim);
        norm(b, "attn_k_norm", all ? kv : d->head_dim);
    }
    if (has(d, ARCH_SINKS)) {
        bias(b, "attn_sinks.weight", d->heads, 0);
    }
    matrix(b, FB_PART_ATTN_OUT, "attn_output.weight", q, d->embd, 0);
    if (has(d, ARCH_O_BIAS)) {
        bias(b, "attn_output.bias", d->embd, 0);
    }
    if (has(d, ARCH_ATTN_OUT_NORM)) {
        norm(b, "attn_output_norm", d->embd);
    }
}

static int delta_v_heads(const struct fb_dims *d)
{
    return d->embd >= 2 * DELTA_NET_HEAD ? d->embd / DELTA_NET_HEAD : 2;
}

static void delta_net(struct builder *b)
{
    const struct fb_dims *d = b->d;
    int v_heads = delta_v_heads(d);
    int64_t value = (int64_t)v_heads * DELTA_NET_HEAD;
    int64_t key = (int64_t)(v_heads / 2) * DELTA_NET_HEAD;
    matrix(b, FB_PART_MATRIX, "attn_qkv.weight", d->embd, 2 * key + value, 0);
    matrix(b, FB_PART_MATRIX, "attn_gate.weight", d->embd, value, 0);
    matrix(b, FB_PART_MATRIX, "ssm_ba.weight", d->embd, 2 * v_heads, 0);
    vector(b, "ssm_conv1d.weight", CONV_KERNEL, 2 * key + value, 0.0f, 0.5f);
    bias(b, "ssm_dt.bias", v_heads, 0);
    vector(b, "ssm_a", v_heads, 0, -1.5f, 0.5f);
    norm(b, "ssm_norm", DELTA_NET_HEAD);
    matrix(b, FB_PART_ATTN_OUT, "ssm_out.weight", value, d->embd, 0);
}

static int mamba_rank(const struct fb_dims *d)
{
    return d->embd / 16;
}

static void mamba(struct builder *b)
{
    const struct fb_dims *d = b->d;
    int64_t inner = 2 * (int64_t)d->embd;
    int64_t rank = mamba_rank(d);
    matrix(b, FB_PART_MATRIX, "ssm_in.weight", d->embd, 2 * inner, 0);
    vector(b, "ssm_conv1d.weight", CONV_KERNEL, inner, 0.0f, 0.5f);
    bias(b, "ssm_conv1d.bias", inner, 0);
    matrix(b, FB_PART_MATRIX, "ssm_x.weight", inner, rank + 2 * MAMBA_STATE, 0);
    norm(b, "ssm_dt_norm", rank);
    norm(b, "ssm_b_norm", MAMBA_STATE);
    norm(b, "ssm_c_norm", MAMBA_STATE);
    matrix(b, FB_PART_MATRIX, "ssm_dt.weight", rank, inner, 0);
    bias(b, "ssm_dt.bias", inner, 0);
    vector(b, "ssm_a", MAMBA_STATE, inner, -1.5f, 0.5f);
    vector(b, "ssm_d", inner, 0, 1.0f, 0.1f);
    matrix(b, FB_PART_ATTN_OUT, "ssm_out.weight", inner, d->embd, 0);
}

static void dense_ffn(struct builder *b, int64_t ff)
{
    const struct fb_dims *d = b->d;
    bool gate_in_up = has(d, ARCH_FFN_GATE_IN_UP);
    if (!gate_in_up && !has(d, ARCH_FFN_NO_GATE)) {
        matrix(b, FB_PART_MATRIX, "ffn_gate.weight", d->embd, ff, 0);
    }
    matrix(b, FB_PART_MATRIX, "ffn_up.weight", d->embd, gate_in_up ? 2 * ff : ff, 0);
    matrix(b, FB_PART_DOWN, "ffn_down.weight", ff, d->embd, 0);
    if (has(d, ARCH_FFN_BIAS)) {
        bias(b, "ffn_up.bias", ff, 0);
        bias(b, "ffn_down.bias", d->embd, 0);
    }
}

static void shared_experts(struct builder *b)
{
    const struct fb_dims *d = b->d;
    int64_t ff = (int64_t)d->expert_ff * d->shared;
    if (ff == 0) {
        return;
    }
    if (has(d, ARCH_SHARED_GATE)) {
        vector(b, "ffn_gate_inp_shexp.weight", d->embd, 0, 0.0f, 1.0f / sqrtf((float)d->embd));
    }
    matrix(b, FB_PART_MATRIX, "ffn_gate_shexp.weight", d->embd, ff, 0);
    matrix(b, FB_PART_MATRIX, "ffn_up_shexp.weight", d->embd, ff, 0);
    matrix(b, FB_PART_DOWN, "ffn_down_shexp.weight", ff, d->embd, 0);
}

static void experts(struct builder *b)
{
    const struct fb_dims *d = b->d;
    int64_t ff = d->expert_ff, n = d->experts;
    /* 1.5: enough difference between logits for tokens to choose different experts */
    add(b, FB_PART_ROUTER, "ffn_gate_inp.weight", d->embd, n, 0)->spread =
        1.5f / sqrtf((float)d->embd);
    if (has(d, ARCH_PROBS_BIAS)) {
        vector(b, "exp_probs_b.bias", n, 0, 0.0f, 0.05f);
    }
    if (d->fused) {
        matrix(b, FB_PART_EXPERT, "ffn_gate_up_exps.weight", d->embd, 2 * ff, n);
    } else {
        matrix(b, FB_PART_EXPERT, "ffn_gate_exps.weight", d->embd, ff, n);
        matrix(b, FB_PART_EXPERT, "ffn_up_exps.weight", d->embd, ff, n);
    }
    matrix(b, FB_PART_EXPERT_DOWN, "ffn_down_exps.weight", ff, d->embd, n);
    if (has(d, ARCH_EXPERT_BIAS)) {
        bias(b, "ffn_gate_inp.bias", n, 0);
        bias(b, "ffn_gate_exps.bias", ff, n);
        bias(b, "ffn_up_exps.bias", ff, n);
        bias(b, "ffn_down_exps.bias", d->embd, n);
    }
    shared_experts(b);
}

static void layer_norms(struct builder *b)
{
    const struct fb_dims *d = b->d;
    if (!has(d, ARCH_NO_PRE_NORM)) {
        norm(b, "attn_norm", d->embd);
        if (!has(d, ARCH_NO_FFN_NORM)) {
            norm(b, has(d, ARCH_FFN_NORM_IS_POST) ? "post_attention_norm" : "ffn_norm", d->embd);
        }
    }
    if (has(d, ARCH_POST_NORMS)) {
        norm(b, "post_attention_norm", d->embd);
        norm(b, "post_ffw_norm", d->embd);
    }
    if (has(d, ARCH_LAYER_OUT_NORM)) {
        norm(b, "layer_output_norm", d->embd);
    }
    if (has(d, ARCH_FFN_AND_EXPERTS)) {
        norm(b, "ffn_norm_exps", d->embd);
    }
}

static void one_layer(struct builder *b)
{
    const struct fb_dims *d = b->d;
    layer_norms(b);
    if (is_recurrent(d, b->layer)) {
        (has(d, ARCH_MAMBA) ? mamba : delta_net)(b);
    } else {
        (has(d, ARCH_MLA) ? latent_attention : plain_attention)(b);
    }
    if (d->experts > 0 && b->layer >= d->dense_layers) {
        if (has(d, ARCH_FFN_AND_EXPERTS)) {
            dense_ffn(b, d->embd);
        }
        experts(b);
    } else {
        dense_ffn(b, d->ff);
    }
}

void fb_dims_tensors(const struct fb_dims *dims, struct fb_synth_model *model)
{
    struct builder b = {dims, model, -1};
    int64_t embd = dims->embd, vocab = dims->vocab;
    bool tied = has(dims, ARCH_TIED);
    struct fb_synth_tensor *t = add(&b, FB_PART_EMBEDDING, "token_embd.weight", embd, vocab, 0);
    /* tied: small compared with the contribution of the layers, or a token's own logit would always
     * win; models with norms after each step multiply embeddings by the root of the width */
    float tied_size = has(dims, ARCH_POST_NORMS) ? 0.1f : 0.5f;
    t->spread = tied ? tied_size / sqrtf((float)embd) : 1.0f;
    t->zero_row = vocab - 1; /* </s>: never the most likely token */
    if (has(dims, ARCH_POSITION_EMBD)) {
        bias(&b, "position_embd.weight", embd, dims->ctx);
    }
    for (b.layer = 0; b.layer < dims->layers; b.layer++) {
        one_layer(&b);
    }
    b.layer = -1;
    norm(&b, "output_norm", embd);
    if (!tied) {
        t = add(&b, FB_PART_OUTPUT, "output.weight", embd, vocab, 0);
        t->spread = 3.0f / sqrtf((float)embd);
        t->zero_row = vocab - 1;
    }
    if (has(dims, ARCH_OUTPUT_BIAS)) {
        bias(&b, "output.bias", vocab, 0);
    }
}

/* --- Keys --------------------------------------------------------------------------------- */

static void attention_keys(const struct fb_dims *d, struct fb_synth_model *m)
{
    fb_synth_key_u32(m, "attention.head_count", (uint32_t)d->heads);
    fb_synth_key_f32(m,
        has(d, ARCH_LAYER_NORM) ? "attention.layer_norm_epsilon"
                                : "attention.layer_norm_rms_epsilon",
        1e-5f);
    if (has(d, ARCH_MLA)) {
        fb_synth_key_u32(m, "attention.head_count_kv", 1);
        fb_synth_key_u32(m, "attention.q_lora_rank", (uint32_t)d->q_rank);
        fb_synth_key_u32(m, "attention.kv_lora_rank", (uint32_t)d->kv_rank);
        fb_synth_key_u32(m, "attention.key_length", (uint32_t)(d->kv_rank + d->rope));
        fb_synth_key_u32(m, "attention.value_length", (uint32_t)d->kv_rank);
        fb_synth_key_u32(m, "attention.key_length_mla", (uint32_t)(d->nope + d->rope));
        fb_synth_key_u32(m, "attention.value_length_mla", (uint32_t)d->v_dim);
        fb_synth_key_u32(m, "rope.dimension_count", (uint32_t)d->rope);
        return;
    }
    fb_synth_key_u32(m, "attention.key_length", (uint32_t)d->head_dim);
    fb_synth_key_u32(m, "attention.value_length", (uint32_t)d->head_dim);
    fb_synth_key_u32(m, "rope.dimension_count", (uint32_t)d->head_dim);
    if (!has(d, ARCH_MAMBA)) {
        fb_synth_key_u32(m, "attention.head_count_kv", (uint32_t)d->kv_heads);
        return;
    }
    /* a layer without KV heads is a Mamba layer */
    uint32_t per_layer[FB_MAX_LAYERS];
    for (int i = 0; i < d->layers; i++) {
        per_layer[i] = is_recurrent(d, i) ? 0 : (uint32_t)d->kv_heads;
    }
    char key[128];
    snprintf(key, sizeof key, "%s.attention.head_count_kv", m->arch);
    gguf_set_arr_data(m->meta, key, GGUF_TYPE_UINT32, per_layer, (size_t)d->layers);
}

static void recurrent_keys(const struct fb_dims *d, struct fb_synth_model *m)
{
    bool delta = has(d, ARCH_DELTA_NET);
    int v_heads = delta_v_heads(d);
    fb_synth_key_u32(m, "ssm.conv_kernel", CONV_KERNEL);
    fb_synth_key_u32(m, "ssm.state_size", delta ? DELTA_NET_HEAD : MAMBA_STATE);
    fb_synth_key_u32(
        m, "ssm.inner_size", (uint32_t)(delta ? v_heads * DELTA_NET_HEAD : 2 * d->embd));
    fb_synth_key_u32(m, "ssm.time_step_rank", (uint32_t)(delta ? v_heads : mamba_rank(d)));
    if (delta) {
        fb_synth_key_u32(m, "ssm.group_count", (uint32_t)v_heads / 2);
    }
}

static void ffn_keys(const struct fb_dims *d, struct fb_synth_model *m)
{
    bool experts_only = d->experts > 0 && has(d, ARCH_ONE_FF_KEY);
    fb_synth_key_u32(m, "feed_forward_length", (uint32_t)(experts_only ? d->expert_ff : d->ff));
    if (d->experts == 0) {
        return;
    }
    fb_synth_key_u32(m, "expert_count", (uint32_t)d->experts);
    fb_synth_key_u32(m, "expert_used_count", (uint32_t)d->used);
    fb_synth_key_u32(m, "expert_feed_forward_length", (uint32_t)d->expert_ff);
    fb_synth_key_u32(m, "leading_dense_block_count", (uint32_t)d->dense_layers);
    if (d->arch->shared_experts > 0) {
        fb_synth_key_u32(m, "expert_shared_count", (uint32_t)d->shared);
    }
    if (has(d, ARCH_SHARED_FF_KEY)) {
        fb_synth_key_u32(
            m, "expert_shared_feed_forward_length", (uint32_t)(d->expert_ff * d->shared));
    }
}

static void own_keys(const struct fb_arch *arch, struct fb_synth_model *m)
{
    int n = (int)(sizeof arch->keys / sizeof *arch->keys);
    for (int i = 0; i < n && arch->keys[i].key; i++) {
        const struct fb_arch_key *k = &arch->keys[i];
        if (k->kind == 'u') {
            fb_synth_key_u32(m, k->key, (uint32_t)k->value);
        } else if (k->kind == 'f') {
            fb_synth_key_f32(m, k->key, (float)k->value);
        } else {
            fb_synth_key_bool(m, k->key, k->value != 0);
        }
    }
}

void fb_dims_build(const struct fb_dims *dims, struct fb_synth_model *model)
{
    fb_synth_model_init(model, dims->arch->gguf ? dims->arch->gguf : dims->arch->name);
    /* llama.cpp treats some models specially by name, so this one is neutral */
    gguf_set_val_str(model->meta, "general.name", "forebay synth");
    fb_synth_key_u32(model, "context_length", (uint32_t)dims->ctx);
    fb_synth_key_u32(model, "embedding_length", (uint32_t)dims->embd);
    fb_synth_key_u32(model, "block_count", (uint32_t)dims->layers);
    fb_synth_key_u32(model, "vocab_size", (uint32_t)dims->vocab);
    attention_keys(dims, model);
    ffn_keys(dims, model);
    if (has(dims, ARCH_DELTA_NET | ARCH_MAMBA)) {
        recurrent_keys(dims, model);
    }
    own_keys(dims->arch, model);
    fb_synth_vocab_add(model, dims->vocab);
    fb_dims_tensors(dims, model);
}

/* --- Figures ------------------------------------------------------------------------------ */

uint64_t fb_dims_expert_bytes(const struct fb_dims *dims)
{
    if (dims->experts == 0) {
        return 0;
    }
    int layer = dims->dense_layers;
    int up = fb_synth_quant_pick(&dims->quant, FB_PART_EXPERT, layer, dims->layers, dims->embd);
    int down = fb_synth_quant_pick(
        &dims->quant, FB_PART_EXPERT_DOWN, layer, dims->layers, dims->expert_ff);
    return 2 * (uint64_t)dims->expert_ff * ggml_row_size((enum ggml_type)up, dims->embd) +
           (uint64_t)dims->embd * ggml_row_size((enum ggml_type)down, dims->expert_ff);
}

void fb_dims_describe(const struct fb_dims *dims, char *buf, size_t cap)
{
    int n = snprintf(buf, cap, "%s %s, %d layers, %d wide, %d heads, ", dims->arch->name,
        dims->quant.name, dims->layers, dims->embd, dims->heads);
    if (n < 0 || (size_t)n >= cap) {
        return;
    }
    if (dims->experts > 0) {
        snprintf(buf + n, cap - (size_t)n, "%d experts of %s (%d used)", dims->experts,
            FB_SIZE(fb_dims_expert_bytes(dims)), dims->used);
    } else {
        snprintf(buf + n, cap - (size_t)n, "FFN %d", dims->ff);
    }
}
