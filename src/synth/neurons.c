/*
 * neurons.c - see neurons.h. One source matrix and one order are cached: rows are requested in file
 * order, so each is computed once per expert.
 */
#include "synth/neurons.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "synth/quant.h"

#include "ggml.h"

void fb_neurons_init(struct fb_neurons *neurons, struct fb_catalog *source, uint64_t seed)
{
    *neurons =
        (struct fb_neurons){.source = source, .seed = seed, .matrix_tensor = -1, .order_layer = -1};
}

void fb_neurons_release(struct fb_neurons *neurons)
{
    free(neurons->order);
    free(neurons->zeros);
    free(neurons->matrix);
    memset(neurons, 0, sizeof *neurons);
}

enum forebay_status fb_neurons_read(struct fb_neurons *neurons, int tensor, uint64_t at, void *out,
    uint64_t length, struct forebay_error *err)
{
    const struct fb_tensor *t = &neurons->source->tensors[tensor];
    FB_ASSERT(at <= t->bytes && length <= t->bytes - at);
    return fb_file_read(neurons->source->files[t->file], out, (size_t)length, t->offset + at, err);
}

/* --- The source's weights ----------------------------------------------------------------- */

/* Converts rows of any type to floats, each followed by zeros up to `stride`. */
static void to_floats(
    int type, const uint8_t *rows, int64_t n_rows, int64_t length, int64_t stride, float *out)
{
    const struct ggml_type_traits *traits = ggml_get_type_traits((enum ggml_type)type);
    size_t row_bytes = ggml_row_size((enum ggml_type)type, length);
    for (int64_t i = 0; i < n_rows; i++, rows += row_bytes, out += stride) {
        if (type == GGML_TYPE_F32) {
            memcpy(out, rows, row_bytes);
        } else {
            traits->to_float(rows, out, length);
        }
        memset(out + length, 0, (size_t)(stride - length) * sizeof *out);
    }
}

/* Converts n->matrix to another type and longer rows. */
static void convert(
    struct fb_neurons *n, int from_type, int to_type, int64_t rows, int64_t length, int64_t stride)
{
    float *floats = fb_xmalloc((size_t)(rows * stride) * sizeof *floats);
    to_floats(from_type, n->matrix, rows, length, stride, floats);
    n->matrix =
        fb_xrealloc(n->matrix, (size_t)rows * ggml_row_size((enum ggml_type)to_type, stride));
    fb_synth_quantize(to_type, floats, rows, stride, n->matrix);
    free(floats);
}

static enum forebay_status load_matrix(
    struct fb_neurons *n, int type, int tensor, bool columns, int expert, struct forebay_error *err)
{
    if (n->matrix_tensor == tensor && n->matrix_expert == expert) {
        return FOREBAY_OK;
    }
    const struct fb_tensor *from = &n->source->tensors[tensor];
    int64_t length = from->ne[0];
    int64_t stride = columns ? n->padded_ff : length;
    uint64_t row_bytes = ggml_row_size((enum ggml_type)from->type, length);
    uint64_t bytes = from->bytes / (uint64_t)n->source_experts;
    n->matrix_tensor = -1;
    n->matrix = fb_xrealloc(n->matrix, (size_t)bytes);
    enum forebay_status status =
        fb_neurons_read(n, tensor, bytes * (uint64_t)expert, n->matrix, bytes, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (from->type != type || stride != length) {
        convert(n, from->type, type, (int64_t)(bytes / row_bytes), length, stride);
    }
    int64_t longest = stride > n->group ? stride : n->group;
    n->zeros = fb_xrealloc(n->zeros, ggml_row_size((enum ggml_type)type, longest));
    fb_synth_zeros(type, longest, n->zeros);
    n->matrix_tensor = tensor;
    n->matrix_expert = expert;
    return FOREBAY_OK;
}

/* --- Their new order --------------------------------------------------------------------- */

static void load_order(struct fb_neurons *n, int layer, int expert)
{
    if (n->order_layer == layer && n->order_expert == expert) {
        return;
    }
    int64_t places = n->ff / n->group, real = n->padded_ff / n->group;
    n->order = fb_xrealloc(n->order, (size_t)places * sizeof *n->order);
    for (int64_t i = 0; i < places; i++) {
        n->order[i] = i < real ? (int32_t)i : -1;
    }
    uint64_t key = fb_random_mix(n->seed, (uint64_t)layer, (uint64_t)expert);
    for (int64_t i = places - 1; i > 0; i--) {
        int64_t j = (int64_t)(fb_random_mix(key, (uint64_t)i, 5) % (uint64_t)(i + 1));
        int32_t other = n->order[j];
        n->order[j] = n->order[i];
        n->order[i] = other;
    }
    n->order_layer = layer;
    n->order_expert = expert;
}

static void neuron_row(const struct fb_neurons *n, size_t row_bytes, int64_t row, uint8_t *out)
{
    int32_t group = n->order[row / n->group];
    int64_t from = (int64_t)group * n->group + row % n->group;
    bool real = group >= 0 && from < n->source_ff;
    memcpy(out, real ? n->matrix + (size_t)from * row_bytes : n->zeros, row_bytes);
}

static void neuron_columns(const struct fb_neurons *n, int type, int64_t row, uint8_t *out)
{
    size_t group_bytes = ggml_row_size((enum ggml_type)type, n->group);
    const uint8_t *from =
        n->matrix + (size_t)row * ggml_row_size((enum ggml_type)type, n->padded_ff);
    int64_t places = n->ff / n->group;
    for (int64_t i = 0; i < places; i++, out += group_bytes) {
        int32_t group = n->order[i];
        memcpy(out, group < 0 ? n->zeros : from + (size_t)group * group_bytes, group_bytes);
    }
}

enum forebay_status fb_neurons_row(struct fb_neurons *neurons, const struct fb_synth_tensor *to,
    int tensor, bool columns, int64_t row, uint8_t *out, struct forebay_error *err)
{
    int64_t per_expert = to->n_dims == 3 ? to->ne[1] : 1;
    int expert = (int)(row / per_expert);
    enum forebay_status status =
        load_matrix(neurons, to->type, tensor, columns, expert % neurons->source_experts, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    load_order(neurons, to->layer, expert);
    if (columns) {
        neuron_columns(neurons, to->type, row % per_expert, out);
    } else {
        size_t row_bytes = (size_t)fb_synth_tensor_row_bytes(to);
        neuron_row(neurons, row_bytes, row % per_expert, out);
    }
    return FOREBAY_OK;
}
