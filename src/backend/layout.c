#include "backend/layout.h"

#include <string.h>

#include "base/random.h"
#include "ggml-backend-impl.h"

/* --- Choosing ------------------------------------------------------------------------------- */

/* The CPU buffer type that llama.cpp would repack this weight into for this op, or NULL. */
static ggml_backend_buffer_type_t repacked_type(
    const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_dev_get_extra_bufts_t get =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *bufts = get ? get(cpu) : NULL;
    for (; bufts && *bufts; bufts++) {
        struct ggml_tensor w = *weight, trial = *op;
        w.buffer = ggml_backend_buft_alloc_buffer(*bufts, 0);
        for (int s = 0; s < GGML_MAX_SRC; s++) {
            if (trial.src[s] == weight) {
                trial.src[s] = &w;
            }
        }
        bool fits = ggml_backend_dev_supports_op(cpu, &trial);
        ggml_backend_buffer_free(w.buffer);
        if (fits) {
            return *bufts;
        }
    }
    return NULL;
}

/* Makes the buffer that our tensors borrow, and gets ggml's traits from a tensor in it. */
static bool make_buffer(struct fb_layout *layout, struct ggml_tensor *unit)
{
    layout->buffer = ggml_backend_buft_alloc_buffer(layout->buft, 64);
    if (!layout->buffer) {
        return false;
    }
    unit->buffer = layout->buffer;
    unit->data = ggml_backend_buffer_get_base(layout->buffer);
    unit->extra = NULL;
    unit->view_src = NULL;
    if (layout->buffer->iface.init_tensor) {
        layout->buffer->iface.init_tensor(layout->buffer, unit);
    }
    layout->extra = unit->extra;
    if (!layout->extra) {
        fb_layout_release(layout);
        return false;
    }
    return true;
}

bool fb_layout_choose(struct fb_layout *out, const struct ggml_tensor *op,
    const struct ggml_tensor *weight, bool repack, bool expert)
{
    struct ggml_tensor unit = *weight;
    if (expert) {
        unit.ne[2] = 1;
        unit.nb[3] = unit.nb[2];
    }
    *out = (struct fb_layout){
        .buft = repack ? repacked_type(op, weight) : NULL,
        .type = weight->type,
        .unit_bytes = ggml_nbytes(&unit),
    };
    memcpy(out->unit_ne, unit.ne, sizeof out->unit_ne);
    if (!out->buft) {
        return true;
    }
    out->unit_bytes = ggml_backend_buft_get_alloc_size(out->buft, &unit);
    return make_buffer(out, &unit);
}

void fb_layout_release(struct fb_layout *layout)
{
    ggml_backend_buffer_free(layout->buffer);
    layout->buffer = NULL;
    layout->extra = NULL;
}

bool fb_layout_is_interleaved(const struct fb_layout *layout)
{
    return layout->buft && strcmp(ggml_backend_buft_name(layout->buft), "CPU_REPACK") == 0;
}

/* --- Repacking ------------------------------------------------------------------------------ */

static struct ggml_tensor tensor_of(const struct fb_layout *layout, const int64_t ne[4])
{
    struct ggml_tensor t = {.type = layout->type, .buffer = layout->buffer, .extra = layout->extra};
    memcpy(t.ne, ne, sizeof t.ne);
    t.nb[0] = ggml_type_size(t.type);
    t.nb[1] = ggml_row_size(t.type, t.ne[0]);
    t.nb[2] = t.nb[1] * (size_t)t.ne[1];
    t.nb[3] = t.nb[2] * (size_t)t.ne[2];
    return t;
}

static void unpack(const struct fb_layout *layout, const int64_t ne[4], const void *raw, void *dest)
{
    struct ggml_tensor t = tensor_of(layout, ne);
    t.data = dest;
    t.buffer->iface.set_tensor(t.buffer, &t, raw, 0, ggml_nbytes(&t));
}

size_t fb_layout_bytes(const struct fb_layout *layout, int64_t columns, int64_t rows)
{
    struct ggml_tensor t = tensor_of(layout, (int64_t[4]){columns, rows, 1, 1});
    return ggml_backend_buft_get_alloc_size(layout->buft, &t);
}

void fb_layout_unpack(
    const struct fb_layout *layout, int64_t columns, int64_t rows, const void *raw, void *dest)
{
    unpack(layout, (int64_t[4]){columns, rows, 1, 1}, raw, dest);
}

void fb_layout_unpack_unit(const struct fb_layout *layout, const void *raw, void *dest)
{
    unpack(layout, layout->unit_ne, raw, dest);
}

void fb_layout_trial_bytes(unsigned char *out, size_t n)
{
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        out[i] = (unsigned char)fb_random_next(&state);
    }
}
