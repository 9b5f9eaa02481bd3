/* gguf_model.c - see gguf_model.h. */
#include "synth/gguf_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

#include "ggml.h"
#include "gguf.h"

void fb_synth_model_init(struct fb_synth_model *model, const char *arch)
{
    memset(model, 0, sizeof *model);
    snprintf(model->arch, sizeof model->arch, "%s", arch);
    model->meta = gguf_init_empty();
    gguf_set_val_str(model->meta, "general.architecture", arch);
}

void fb_synth_model_release(struct fb_synth_model *model)
{
    if (model->meta) {
        gguf_free(model->meta);
    }
    free(model->tensors);
    memset(model, 0, sizeof *model);
}

void fb_synth_model_clear(struct fb_synth_model *model)
{
    model->n_tensors = 0;
}

struct fb_synth_tensor *fb_synth_tensor_add(
    struct fb_synth_model *model, int type, int64_t ne0, int64_t ne1, int64_t ne2)
{
    if (model->n_tensors == model->capacity) {
        model->capacity = model->capacity ? 2 * model->capacity : 64;
        model->tensors =
            fb_xrealloc(model->tensors, (size_t)model->capacity * sizeof *model->tensors);
    }
    struct fb_synth_tensor *t = &model->tensors[model->n_tensors++];
    *t = (struct fb_synth_tensor){.type = type,
        .n_dims = ne2   ? 3
                  : ne1 ? 2
                        : 1,
        .ne = {ne0, ne1 ? ne1 : 1, ne2 ? ne2 : 1, 1},
        .layer = -1,
        .zero_row = -1};
    FB_ASSERT(ne0 > 0 && ne0 % ggml_blck_size((enum ggml_type)type) == 0);
    return t;
}

void fb_synth_tensor_name(struct fb_synth_tensor *tensor, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(tensor->name, sizeof tensor->name, format, ap);
    va_end(ap);
    FB_ASSERT(n > 0 && n < GGML_MAX_NAME);
}

uint64_t fb_synth_tensor_row_bytes(const struct fb_synth_tensor *tensor)
{
    return ggml_row_size((enum ggml_type)tensor->type, tensor->ne[0]);
}

int64_t fb_synth_tensor_rows(const struct fb_synth_tensor *tensor)
{
    return tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
}

uint64_t fb_synth_tensor_bytes(const struct fb_synth_tensor *tensor)
{
    return fb_synth_tensor_row_bytes(tensor) * (uint64_t)fb_synth_tensor_rows(tensor);
}

uint64_t fb_synth_model_bytes(const struct fb_synth_model *model)
{
    uint64_t sum = 0;
    for (int i = 0; i < model->n_tensors; i++) {
        sum += fb_round_up(fb_synth_tensor_bytes(&model->tensors[i]), GGUF_DEFAULT_ALIGNMENT);
    }
    return sum;
}

uint64_t fb_synth_model_parameters(const struct fb_synth_model *model)
{
    uint64_t sum = 0;
    for (int i = 0; i < model->n_tensors; i++) {
        const struct fb_synth_tensor *t = &model->tensors[i];
        sum += (uint64_t)(t->ne[0] * fb_synth_tensor_rows(t));
    }
    return sum;
}

static const char *full_key(const struct fb_synth_model *model, const char *key, char buf[128])
{
    snprintf(buf, 128, "%s.%s", model->arch, key);
    return buf;
}

void fb_synth_key_u32(struct fb_synth_model *model, const char *key, uint32_t value)
{
    gguf_set_val_u32(model->meta, full_key(model, key, (char[128]){0}), value);
}

void fb_synth_key_f32(struct fb_synth_model *model, const char *key, float value)
{
    gguf_set_val_f32(model->meta, full_key(model, key, (char[128]){0}), value);
}

void fb_synth_key_bool(struct fb_synth_model *model, const char *key, bool value)
{
    gguf_set_val_bool(model->meta, full_key(model, key, (char[128]){0}), value);
}
