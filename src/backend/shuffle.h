/*
 * shuffle.h - a repacked layout as a rearrangement: the same bits in another order, some of them
 * flipped.
 *
 * llama.cpp's interleaved layouts combine a few rows at a time, block by block, into tiles:
 *
 *      row 0  [block 0][block 1]...          tile 0: the bits of block 0 of rows 0 to 7
 *      row 1  [block 0][block 1]...    --->  tile 1: the bits of block 1 of rows 0 to 7
 *       ...                                   ...
 *      row 8                                 the next rows' tiles
 *
 * No layout is known here. Where each bit goes is learnt by having llama.cpp repack numbered bits.
 * That order is turned into a list of moves, which unpacks weights faster than llama.cpp's own code
 * (bench/LOG.md). It is used only if it gives the same result as llama.cpp on random rows, and only
 * for interleaved layouts (fb_layout_is_interleaved); all others are left to llama.cpp.
 */
#ifndef FB_BACKEND_SHUFFLE_H
#define FB_BACKEND_SHUFFLE_H

#include "backend/layout.h"

struct fb_shuffle;

/* The shuffle for a unit in this layout; NULL: llama.cpp must repack it. Learnt when the first unit
 * of a kind (layout, type, number of columns) asks for it, which takes some milliseconds, and kept
 * until the process ends. Any thread. */
const struct fb_shuffle *fb_shuffle_of(const struct fb_layout *layout);

/* Unpacks rows: all of a unit, or a multiple of 16. Any thread. */
void fb_shuffle_unpack(const struct fb_shuffle *shuffle, const void *raw, int64_t rows, void *dest);

#endif
