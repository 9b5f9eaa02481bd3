/*
 * shuffle.h - a repacked layout as what it is: the same bits in another order, some of them flipped.
 *
 * llama.cpp's interleaved layouts take a few rows at a time and put their blocks together as a tile:
 *
 *      row 0  [block 0][block 1]...          tile 0: the bits of block 0 of rows 0 to 7
 *      row 1  [block 0][block 1]...    --->  tile 1: the bits of block 1 of rows 0 to 7
 *       ...                                   ...
 *      row 8                                 the next rows' tiles
 *
 * No layout is known here. What becomes of which bit is learnt by having llama.cpp repack numbered
 * bits; that order becomes a list of moves, which is what puts arriving weights into place, faster
 * than llama.cpp's own code (bench/LOG.md). It is used only if it makes the same of random rows as
 * llama.cpp does, and only for the buffer type CPU_REPACK; any other layout is left to llama.cpp.
 */
#ifndef FB_BACKEND_SHUFFLE_H
#define FB_BACKEND_SHUFFLE_H

#include <stdint.h>

struct claim;
struct shuffle;

/* The order for a claim whose form was chosen; NULL: llama.cpp has to put it into place. Learnt at
 * the first claim of a kind (some ms), then kept until the process ends. Any thread. */
const struct shuffle *fb_shuffle_of(const struct claim *claim);

/* Puts rows into place, a multiple of 16 or all of a unit. Any thread. */
void fb_shuffle_unpack(const struct shuffle *shuffle, const void *raw, int64_t rows, void *dest);

#endif
