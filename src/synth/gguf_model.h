/*
 * gguf_model.h - a synthetic model in memory: its key-values and tensors, without their data.
 *
 * Tensors are in file order. A tensor has the mean and spread of its weights; a source of rows may
 * ignore them (replay, inflate).
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
    int64_t zero_row; /* number of the row that is all zeros, or -1 */
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
/* Removes the tensors, keeps the key-values. */
void fb_synth_model_clear(struct fb_synth_model *model);

/* Appends a tensor; the pointer is valid until the next call. A dimension of 0 is absent. */
struct fb_synth_tensor *fb_synth_tensor_add(
    struct fb_synth_model *model, int type, int64_t ne0, int64_t ne1, int64_t ne2);
void fb_synth_tensor_name(struct fb_synth_tensor *tensor, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

uint64_t fb_synth_tensor_row_bytes(const struct fb_synth_tensor *tensor);
int64_t fb_synth_tensor_rows(const struct fb_synth_tensor *tensor);
uint64_t fb_synth_tensor_bytes(const struct fb_synth_tensor *tensor);
uint64_t fb_synth_model_bytes(const struct fb_synth_model *model); /* tensors with their padding */
uint64_t fb_synth_model_parameters(const struct fb_synth_model *model);

/* Set a key of the architecture; `key` is without the "ARCH." in front. */
void fb_synth_key_u32(struct fb_synth_model *model, const char *key, uint32_t value);
void fb_synth_key_f32(struct fb_synth_model *model, const char *key, float value);
void fb_synth_key_bool(struct fb_synth_model *model, const char *key, bool value);

#endif
