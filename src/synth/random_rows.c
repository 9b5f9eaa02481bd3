/* random_rows.c - see random_rows.h. */
#include "synth/random_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "synth/quant.h"

#include "ggml.h"

/* Different rows a pool should give: for tensors of many rows, and for others. */
#define VARIANTS_MANY 1024
#define VARIANTS_FEW  128
#define MANY_ROWS     4096

struct rows {
    int type;
    int64_t length;
    float mean, spread;
    bool many;
    int64_t n; /* rows in the pool, without the zero row after them */
    size_t row_bytes;
    int64_t n_blocks; /* per row */
    size_t block_bytes;
    uint8_t *data;
    struct rows *next;
};

struct fb_random_rows {
    uint64_t seed;
    struct rows *first;
};

/* --- Numbers ------------------------------------------------------------------------------ */

void fb_random_floats(uint64_t key, float mean, float spread, int64_t n, float *out)
{
    float scale = spread * sqrtf(3.0f) * 0x1p-31f; /* of an even spread over [-2^31, 2^31) */
    for (int64_t i = 0; i < n; i += 2) {
        uint64_t x = fb_random_hash(key + (uint64_t)i);
        out[i] = mean + scale * (float)(int32_t)(uint32_t)x;
        if (i + 1 < n) {
            out[i + 1] = mean + scale * (float)(int32_t)(uint32_t)(x >> 32);
        }
    }
}

/* --- Pools -------------------------------------------------------------------------------- */

struct fb_random_rows *fb_random_rows_new(uint64_t seed)
{
    struct fb_random_rows *pool = fb_xcalloc(1, sizeof *pool);
    pool->seed = seed;
    return pool;
}

void fb_random_rows_free(struct fb_random_rows *pool)
{
    if (!pool) {
        return;
    }
    while (pool->first) {
        struct rows *r = pool->first;
        pool->first = r->next;
        free(r->data);
        free(r);
    }
    free(pool);
}

static void fill_rows(struct rows *r, uint64_t seed)
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

static struct rows *make_rows(const struct fb_random_rows *pool, struct rows key)
{
    struct rows *r = fb_xmalloc(sizeof *r);
    *r = key;
    enum ggml_type type = (enum ggml_type)r->type;
    int64_t block = ggml_blck_size(type);
    r->block_bytes = ggml_type_size(type);
    r->row_bytes = ggml_row_size(type, r->length);
    r->n_blocks = r->length / block;
    int64_t variants = r->many ? VARIANTS_MANY : VARIANTS_FEW;
    int64_t turns = block == 1 ? r->length / 32 + 1 : r->n_blocks; /* useful rotations */
    r->n = variants / turns < 16 ? 16 : variants / turns;
    uint32_t spread_bits; /* pools of different spread are different rows, not scaled ones */
    memcpy(&spread_bits, &r->spread, sizeof spread_bits);
    uint64_t seed =
        fb_random_mix(pool->seed, (uint64_t)r->type << 32 | spread_bits, (uint64_t)r->length);
    r->data = fb_xmalloc((size_t)(r->n + 1) * r->row_bytes);
    fill_rows(r, seed);
    return r;
}

static const struct rows *find_rows(struct fb_random_rows *pool, const struct fb_synth_tensor *t)
{
    bool many = fb_synth_tensor_rows(t) >= MANY_ROWS;
    for (struct rows *r = pool->first; r; r = r->next) {
        if (r->type == t->type && r->length == t->ne[0] && r->mean == t->mean &&
            r->spread == t->spread && r->many == many) {
            return r;
        }
    }
    struct rows key = {.type = t->type,
        .length = t->ne[0],
        .mean = t->mean,
        .spread = t->spread,
        .many = many,
        .next = pool->first};
    pool->first = make_rows(pool, key);
    return pool->first;
}

void fb_random_rows_get(struct fb_random_rows *pool, const struct fb_synth_tensor *tensor,
    int index, int64_t row, int64_t n, void *out)
{
    uint8_t *to = out;
    uint64_t name = fb_random_mix(pool->seed, (uint64_t)index, 1);
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
    const struct rows *r = find_rows(pool, tensor);
    for (int64_t i = 0; i < n; i++, to += r->row_bytes) {
        uint64_t x = fb_random_hash(name + (uint64_t)(row + i));
        uint64_t which = row + i == tensor->zero_row ? (uint64_t)r->n : x % (uint64_t)r->n;
        size_t turn = (size_t)((x >> 32) % (uint64_t)r->n_blocks) * r->block_bytes;
        const uint8_t *from = r->data + which * r->row_bytes;
        memcpy(to, from + turn, r->row_bytes - turn);
        memcpy(to + r->row_bytes - turn, from, turn);
    }
}
