/*
 * random_rows.c - see random_rows.h.
 *
 *      a set     row 0 | row 1 | ... | row n-1 | a row of zeros        quantised once
 *      a tensor's row = row i of the set, rotated by j blocks          i, j: hash of tensor and row
 *
 * F32 rows are not taken from a set, but generated directly.
 */
#include "synth/random_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "synth/quant.h"

#include "ggml.h"

/* Different rows that a set should provide by rotation: for tensors of many rows, and for
 * others. */
#define VARIANTS_MANY 1024
#define VARIANTS_FEW  128
#define MANY_ROWS     4096

struct row_set {
    int type;
    int64_t length;
    float mean, spread;
    bool many;
    int64_t n; /* rows in `data`, without the zero row after them */
    size_t row_bytes;
    int64_t n_blocks; /* per row */
    size_t block_bytes;
    uint8_t *data;
    struct row_set *next;
};

struct fb_random_rows {
    uint64_t seed;
    struct row_set *first;
};

/* --- Numbers ------------------------------------------------------------------------------ */

void fb_random_floats(uint64_t key, float mean, float spread, int64_t n, float *out)
{
    float scale = spread * sqrtf(3.0f) * 0x1p-31f; /* uniform over [-2^31, 2^31) */
    for (int64_t i = 0; i < n; i += 2) {
        uint64_t x = fb_random_hash(key + (uint64_t)i);
        out[i] = mean + scale * (float)(int32_t)(uint32_t)x;
        if (i + 1 < n) {
            out[i + 1] = mean + scale * (float)(int32_t)(uint32_t)(x >> 32);
        }
    }
}

/* --- Sets of rows
 * -------------------------------------------------------------------------------- */

struct fb_random_rows *fb_random_rows_new(uint64_t seed)
{
    struct fb_random_rows *random = fb_xcalloc(1, sizeof *random);
    random->seed = seed;
    return random;
}

void fb_random_rows_free(struct fb_random_rows *random)
{
    if (!random) {
        return;
    }
    while (random->first) {
        struct row_set *r = random->first;
        random->first = r->next;
        free(r->data);
        free(r);
    }
    free(random);
}

static void fill_rows(struct row_set *r, uint64_t seed)
{
    fb_synth_zeros(r->type, r->length, r->data + (size_t)r->n * r->row_bytes);
    if (fb_synth_random_blocks(r->type, seed, r->spread, r->n * r->n_blocks, r->data)) {
        return;
    }
    int64_t n = r->n * r->length;
    float *floats = fb_xmalloc((size_t)n * sizeof *floats);
    fb_random_floats(seed, r->mean, r->spread, n, floats);
    fb_synth_quantize(r->type, floats, r->n, r->length, r->data);
    free(floats);
}

static struct row_set *make_rows(const struct fb_random_rows *random, struct row_set key)
{
    struct row_set *r = fb_xmalloc(sizeof *r);
    *r = key;
    enum ggml_type type = (enum ggml_type)r->type;
    int64_t block = ggml_blck_size(type);
    r->block_bytes = ggml_type_size(type);
    r->row_bytes = ggml_row_size(type, r->length);
    r->n_blocks = r->length / block;
    int64_t variants = r->many ? VARIANTS_MANY : VARIANTS_FEW;
    int64_t turns = block == 1 ? r->length / 32 + 1 : r->n_blocks; /* useful rotations */
    r->n = variants / turns < 16 ? 16 : variants / turns;
    uint32_t spread_bits; /* sets of different spread are different rows, not scaled ones */
    memcpy(&spread_bits, &r->spread, sizeof spread_bits);
    uint64_t seed =
        fb_random_mix(random->seed, (uint64_t)r->type << 32 | spread_bits, (uint64_t)r->length);
    r->data = fb_xmalloc((size_t)(r->n + 1) * r->row_bytes);
    fill_rows(r, seed);
    return r;
}

static const struct row_set *find_rows(
    struct fb_random_rows *random, const struct fb_synth_tensor *t)
{
    bool many = fb_synth_tensor_rows(t) >= MANY_ROWS;
    for (struct row_set *r = random->first; r; r = r->next) {
        if (r->type == t->type && r->length == t->ne[0] && r->mean == t->mean &&
            r->spread == t->spread && r->many == many) {
            return r;
        }
    }
    struct row_set key = {.type = t->type,
        .length = t->ne[0],
        .mean = t->mean,
        .spread = t->spread,
        .many = many,
        .next = random->first};
    random->first = make_rows(random, key);
    return random->first;
}

void fb_random_rows_get(struct fb_random_rows *random, const struct fb_synth_tensor *tensor,
    int index, int64_t row, int64_t n, void *out)
{
    uint8_t *to = out;
    uint64_t name = fb_random_mix(random->seed, (uint64_t)index, 1);
    if (tensor->type == GGML_TYPE_F32) {
        for (int64_t i = 0; i < n; i++) {
            float *floats = (float *)out + i * tensor->ne[0];
            if (row + i == tensor->zero_row) {
                memset(floats, 0, (size_t)tensor->ne[0] * sizeof *floats);
            } else {
                fb_random_floats(fb_random_mix(name, (uint64_t)(row + i), 2), tensor->mean,
                    tensor->spread, tensor->ne[0], floats);
            }
        }
        return;
    }
    const struct row_set *r = find_rows(random, tensor);
    for (int64_t i = 0; i < n; i++, to += r->row_bytes) {
        uint64_t x = fb_random_hash(name + (uint64_t)(row + i));
        uint64_t which = row + i == tensor->zero_row ? (uint64_t)r->n : x % (uint64_t)r->n;
        size_t turn = (size_t)((x >> 32) % (uint64_t)r->n_blocks) * r->block_bytes;
        const uint8_t *from = r->data + which * r->row_bytes;
        memcpy(to, from + turn, r->row_bytes - turn);
        memcpy(to + r->row_bytes - turn, from, turn);
    }
}
