/*
 * form.h - the form in which a weight's units are held in memory and computed with: as in the file,
 * or in one of the CPU backend's layouts; and how the file's bytes get into it.
 *
 *      unit in the file --- no layout -------------> copied
 *                       --- shuffle is known ------> moved, in pieces, by any number of threads
 *                       --- any other layout ------> llama.cpp's own repacking, in one piece
 */
#ifndef FB_BACKEND_FORM_H
#define FB_BACKEND_FORM_H

#include "backend/layout.h"

struct fb_shuffle;

struct fb_form {
    struct fb_layout layout;
    const struct fb_shuffle *shuffle; /* how we repack into the layout; NULL: llama.cpp does */
};

/* As fb_layout_choose. The first weight of a kind takes some milliseconds (shuffle.h). */
bool fb_form_choose(struct fb_form *out, const struct ggml_tensor *op,
    const struct ggml_tensor *weight, bool repack, bool expert);
void fb_form_release(struct fb_form *form);

/* Bytes of an input row and a result row of one unit, as a matrix product reads and writes them. */
static inline uint64_t fb_form_row_bytes(const struct fb_form *form)
{
    return (uint64_t)(form->layout.unit_ne[0] + form->layout.unit_ne[1]) * sizeof(float);
}

/* Makes `copy`, a copy of a weight, a leaf that points at `data` in this form. */
void fb_form_point(const struct fb_form *form, struct ggml_tensor *copy, void *data);

/* --- Unpacking ------------------------------------------------------------------------------ */

/* One unit that was read, and where its form belongs. */
struct fb_raw_unit {
    const struct fb_form *form;
    const void *raw; /* file_bytes of the file */
    void *dest;
    uint64_t file_bytes;
};

/* Pieces of work that unpacking a unit can be split into, at least one; and doing one of them. All
 * on any thread. */
int fb_form_n_pieces(const struct fb_form *form);
void fb_form_unpack_piece(const struct fb_raw_unit *unit, int piece);

/* Unpacks a whole unit on the calling thread. */
void fb_form_unpack(const struct fb_raw_unit *unit);

#endif
