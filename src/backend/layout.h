/*
 * layout.h - the layouts that the CPU backend repacks weights into, as llama.cpp makes them.
 *
 * llama.cpp repacks many quantised matrices into an order that suits the processor. A layout is one
 * of the CPU's extra buffer types; which one serves a weight depends on the weight's type and shape
 * and on the operation that uses it. A tensor is in a layout when its buffer is of that type and
 * its `extra` holds ggml's traits for it: we keep one small buffer per weight for our tensors to
 * borrow.
 */
#ifndef FB_BACKEND_LAYOUT_H
#define FB_BACKEND_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml-backend.h"
#include "ggml.h"

/* One unit of a weight (the whole matrix, or one expert of a stacked one) in its layout. */
struct fb_layout {
    ggml_backend_buffer_type_t buft; /* NULL: as in the file */
    enum ggml_type type;
    int64_t unit_ne[4];           /* shape of one unit */
    uint64_t unit_bytes;          /* of one unit in this layout */
    ggml_backend_buffer_t buffer; /* of type `buft`; NULL without one */
    void *extra;                  /* ggml's traits for a tensor in that buffer */
};

/* Chooses the layout that llama.cpp would repack `weight` into for `op`, which has it as a
 * source; the file's own if there is none, or without `repack`. `expert`: a unit is one matrix of
 * the stack. False when the layout cannot hold single units; then *out names it and needs
 * no release. */
bool fb_layout_choose(struct fb_layout *out, const struct ggml_tensor *op,
    const struct ggml_tensor *weight, bool repack, bool expert);
void fb_layout_release(struct fb_layout *layout);

/* Whether llama.cpp interleaves rows in this layout (buffer type CPU_REPACK), as opposed to layouts
 * of matrix units and the file's own. */
bool fb_layout_is_interleaved(const struct fb_layout *layout);

/* --- llama.cpp's own repacking; there must be a buffer type ---------------------------------- */

/* Bytes of a matrix of this shape in the layout. */
size_t fb_layout_bytes(const struct fb_layout *layout, int64_t columns, int64_t rows);

/* Repacks a matrix of this shape, from the file's bytes. Any thread. */
void fb_layout_unpack(
    const struct fb_layout *layout, int64_t columns, int64_t rows, const void *raw, void *dest);

/* Repacks one unit. Any thread. */
void fb_layout_unpack_unit(const struct fb_layout *layout, const void *raw, void *dest);

/* Fills `out` with bytes for trying a layout; always the same ones. Layouts only move bits about,
 * so the bytes need not be a valid quantisation. */
void fb_layout_trial_bytes(unsigned char *out, size_t n);

#endif
