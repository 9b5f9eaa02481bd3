/*
 * gguf_model.h - a model being made: its key-values and tensors, not yet its bytes.
 *
 * Tensors are in file order. A tensor says what its weights should look like (mean, spread); the
 * source that writes it may know better (replay, inflate).
 */
#ifndef FB_SYNTH_GGUF_MODEL_H
#define FB_SYNTH_GGUF_MODEL_H

#include "forebay.h"

struct gguf_context; /* gguf.h */

enum fb_synth_part {
    FB_PART_OTHER, /* norms, biases: small, F32 */
    FB_PART_EMBEDDING,
    FB_PART_OUTPUT,
    FB_PART_MATRIX,
    FB_PART_ATTN_V,
    FB_PART_ATTN_OUT,
    FB_PART_DOWN,
    FB_PART_ROUTER,
    FB_PART_EXPERT,
    FB_PART_EXPERT_DOWN,
};

struct fb_synth_tensor {
    char name[64];
    int type; /* enum ggml_type */
    int n_dims;
    int64_t ne[4]; /* ne[0] is the row length */
    enum fb_synth_part part;
    int layer; /* -1: none */
    float mean;
    float spread;     /* standard deviation */
    int64_t zero_row; /* a row that is all zeros, or -1 */
};

struct fb_synth_model {
    struct gguf_context *meta;
    char arch[64];
    int n_tensors;
    int capacity;
    struct fb_synth_tensor *tensors;
};

void fb_synth_model_init(struct fb_synth_model *model, const char *arch);
void fb_synth_model_release(struct fb_synth_model *model);
/* Forgets the tensors, keeps the key-values. */
void fb_synth_model_clear(struct fb_synth_model *model);

/* Appends and returns it; valid until the next one. Trailing dimensions of 0 are absent. */
struct fb_synth_tensor *fb_synth_tensor_add(
    struct fb_synth_model *model, int type, int64_t ne0, int64_t ne1, int64_t ne2);
void fb_synth_tensor_name(struct fb_synth_tensor *tensor, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

uint64_t fb_synth_tensor_row_bytes(const struct fb_synth_tensor *tensor);
int64_t fb_synth_tensor_rows(const struct fb_synth_tensor *tensor);
uint64_t fb_synth_tensor_bytes(const struct fb_synth_tensor *tensor);
uint64_t fb_synth_model_bytes(const struct fb_synth_model *model); /* tensors with their padding */
uint64_t fb_synth_model_parameters(const struct fb_synth_model *model);

/* Keys of the architecture: `key` without the "ARCH." in front. */
void fb_synth_key_u32(struct fb_synth_model *model, const char *key, uint32_t value);
void fb_synth_key_f32(struct fb_synth_model *model, const char *key, float value);
void fb_synth_key_bool(struct fb_synth_model *model, const char *key, bool value);

/* The tokenizer, the same for every made model (vocab.c). `n_vocab` counts all tokens:
 *   0 .. n_words-1   "w0 ", "w1 ", ...  user-defined, so that text is split at them
 *   then             the 256 bytes, so that any text can be tokenized
 *   the last three   <unk>, <s>, </s>   (</s> ends a text; models give it no weight)
 * No token is added to a prompt. */
#define FB_SYNTH_EXTRA_TOKENS 259
void fb_synth_vocab_add(struct fb_synth_model *model, int n_vocab);

#endif
