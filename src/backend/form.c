#include "backend/form.h"

#include <string.h>

#include "backend/shuffle.h"

/* Rows per piece of work, a multiple of the rows that any shuffle combines. */
#define PIECE_ROWS 64

bool fb_form_choose(struct fb_form *out, const struct ggml_tensor *op,
    const struct ggml_tensor *weight, bool repack, bool expert)
{
    *out = (struct fb_form){0};
    if (!fb_layout_choose(&out->layout, op, weight, repack, expert)) {
        return false;
    }
    out->shuffle = fb_shuffle_of(&out->layout);
    return true;
}

void fb_form_release(struct fb_form *form)
{
    fb_layout_release(&form->layout);
}

void fb_form_point(const struct fb_form *form, struct ggml_tensor *copy, void *data)
{
    copy->data = (char *)data + copy->view_offs;
    copy->view_src = NULL;
    copy->view_offs = 0;
    copy->op = GGML_OP_NONE;
    memset(copy->src, 0, sizeof copy->src);
    copy->extra = NULL;
    if (form->layout.buft) {
        copy->buffer = form->layout.buffer;
        copy->extra = form->layout.extra;
    }
}

/* --- Unpacking ------------------------------------------------------------------------------ */

static void shuffle_rows(const struct fb_raw_unit *u, int64_t first, int64_t rows)
{
    const struct fb_layout *layout = &u->form->layout;
    size_t at = (size_t)first * ggml_row_size(layout->type, layout->unit_ne[0]);
    fb_shuffle_unpack(u->form->shuffle, (const char *)u->raw + at, rows, (char *)u->dest + at);
}

int fb_form_n_pieces(const struct fb_form *form)
{
    return form->shuffle ? (int)((form->layout.unit_ne[1] + PIECE_ROWS - 1) / PIECE_ROWS) : 1;
}

void fb_form_unpack_piece(const struct fb_raw_unit *u, int piece)
{
    if (!u->form->shuffle) {
        fb_form_unpack(u);
        return;
    }
    int64_t first = (int64_t)piece * PIECE_ROWS, left = u->form->layout.unit_ne[1] - first;
    shuffle_rows(u, first, left < PIECE_ROWS ? left : PIECE_ROWS);
}

void fb_form_unpack(const struct fb_raw_unit *u)
{
    if (u->form->shuffle) {
        shuffle_rows(u, 0, u->form->layout.unit_ne[1]);
    } else if (u->form->layout.buft) {
        fb_layout_unpack_unit(&u->form->layout, u->raw, u->dest);
    } else {
        memcpy(u->dest, u->raw, u->file_bytes);
    }
}
