/*
 * random_rows.h - random rows of any tensor type, fast.
 *
 * Quantising gigabytes takes hours for some types, and a test model does not need it. So a number
 * of random rows is quantised once for each type, row length and distribution, and each row of a
 * tensor is one of them, rotated by a number of blocks. Seed, tensor and row number determine which
 * row and how far, so that any part of a model can be generated again, in any order.
 */
#ifndef FB_SYNTH_RANDOM_ROWS_H
#define FB_SYNTH_RANDOM_ROWS_H

#include "synth/gguf_model.h"

struct fb_random_rows;

struct fb_random_rows *fb_random_rows_new(uint64_t seed);
void fb_random_rows_free(struct fb_random_rows *random);

/* Writes rows [row, row + n) of the tensor, number `index` in its model. */
void fb_random_rows_get(struct fb_random_rows *random, const struct fb_synth_tensor *tensor,
    int index, int64_t row, int64_t n, void *out);

/* Uniformly distributed floats of the given mean and standard deviation; a function of `key`. */
void fb_random_floats(uint64_t key, float mean, float spread, int64_t n, float *out);

#endif
