/*
 * shuffle.c - learning a layout, and rearranging rows as learnt.
 *
 *      llama.cpp repacks numbered bits ---> bit_order: for each bit of the result, its source
 *      bit_order ---> is it made of equal tiles, each from one block of `rows` rows?
 *      one tile  ---> moves of 8, 2 and 1 bytes; the bytes whose bits are spread go to `mixes`
 *      moves     ---> tried against llama.cpp on random rows
 *
 * A *mix* is eight bytes of a tile whose bits come from several places. The source bytes of all
 * mixes of a tile are first gathered side by side ("mixed bytes"). Each mix is then the XOR of
 * *terms*: a word of the mixed bytes, rotated and masked.
 */
#include "backend/shuffle.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/device_state.h"
#include "base/error.h"
#include "base/units.h"

#define MAX_ROWS        16 /* of a tile */
#define SAMPLE_ROWS     (4 * MAX_ROWS)
#define SAMPLE_BLOCKS   2 /* of a row */
#define MAX_ROW_BYTES   (16 * FB_MIB)
#define MAX_MIXED_BYTES 1024 /* of a tile */

/* Bytes that stay together: offsets from the first byte of the tile's source and of the tile, and
 * the bits that are flipped on the way. */
struct move {
    uint32_t from, to;
    uint64_t flip;
};

/* A word of the mixed bytes, rotated left by `turn`, of which the bits of `mask` are used. */
struct term {
    uint32_t word, turn;
    uint64_t mask;
};

/* Eight bytes of a tile, made of the next n_terms terms. */
struct mix {
    uint32_t to;
    int n_terms;
    uint64_t flip;
};

struct fb_shuffle {
    struct fb_shuffle *next;
    /* The kind of units that it is for: */
    ggml_backend_buffer_type_t buft;
    const void *extra;
    enum ggml_type type;
    int64_t columns;

    bool usable;
    int rows; /* of a tile */
    int n_blocks;
    size_t block_bytes, row_bytes, tile_bytes;
    /* Moves of eight, two and one bytes into the tile, then of single bytes to the mixed bytes. */
    struct move *moves;
    int n_eights, n_twos, n_ones, n_mixed;
    struct mix *mixes;
    struct term *terms;
    int n_mixes, n_terms;
};

/* --- Unpacking ------------------------------------------------------------------------------- */

static void unpack_tile(const struct fb_shuffle *s, const uint8_t *from, uint8_t *to)
{
    const struct move *m = s->moves, *end = m + s->n_eights;
    for (; m < end; m++) {
        uint64_t x;
        memcpy(&x, from + m->from, 8);
        x ^= m->flip;
        memcpy(to + m->to, &x, 8);
    }
    for (end += s->n_twos; m < end; m++) {
        uint16_t x;
        memcpy(&x, from + m->from, 2);
        x ^= (uint16_t)m->flip;
        memcpy(to + m->to, &x, 2);
    }
    for (end += s->n_ones; m < end; m++) {
        to[m->to] = from[m->from] ^ (uint8_t)m->flip;
    }
    union {
        uint8_t bytes[MAX_MIXED_BYTES];
        uint64_t words[MAX_MIXED_BYTES / 8];
    } mixed;
    for (end += s->n_mixed; m < end; m++) {
        mixed.bytes[m->to] = from[m->from];
    }
    const struct term *t = s->terms;
    for (int i = 0; i < s->n_mixes; i++) {
        uint64_t x = s->mixes[i].flip;
        for (int n = s->mixes[i].n_terms; n > 0; n--, t++) {
            uint64_t word = mixed.words[t->word];
            x ^= (word << t->turn | word >> (-t->turn & 63)) & t->mask;
        }
        memcpy(to + s->mixes[i].to, &x, 8);
    }
}

void fb_shuffle_unpack(const struct fb_shuffle *s, const void *raw, int64_t rows, void *dest)
{
    const uint8_t *from = raw;
    uint8_t *to = dest;
    FB_ASSERT(rows % s->rows == 0);
    for (int64_t row = 0; row < rows; row += s->rows) {
        for (int b = 0; b < s->n_blocks; b++, to += s->tile_bytes) {
            unpack_tile(s, from + (size_t)b * s->block_bytes, to);
        }
        from += (size_t)s->rows * s->row_bytes;
    }
}

/* --- Where the bits of a sample go ----------------------------------------------------------- */

struct bit_order {
    size_t n_bytes, row_bytes, block_bytes;
    int n_blocks;
    uint32_t *source; /* [8 x n_bytes] the number of the source bit of each bit of the result */
    uint8_t *flips;   /* [n_bytes] the result of repacking zeros */
};

/* Sets each bit of a sample to one binary digit of its own number. */
static void fill_digit(uint8_t *raw, size_t n, int digit)
{
    static const uint8_t within[] = {0xaa, 0xcc, 0xf0};
    for (size_t i = 0; i < n; i++) {
        raw[i] = digit < 3 ? within[digit] : (i >> (digit - 3)) & 1 ? 0xff : 0;
    }
}

static void learn_order(struct bit_order *o, const struct fb_layout *layout, int64_t columns)
{
    o->row_bytes = ggml_row_size(layout->type, columns);
    o->block_bytes = ggml_type_size(layout->type);
    o->n_blocks = (int)(o->row_bytes / o->block_bytes);
    o->n_bytes = o->row_bytes * SAMPLE_ROWS;
    o->source = fb_xcalloc(o->n_bytes * 8, sizeof *o->source);
    o->flips = fb_xcalloc(o->n_bytes, 1);
    uint8_t *raw = fb_xcalloc(o->n_bytes, 1), *form = fb_xcalloc(o->n_bytes, 1);
    fb_layout_unpack(layout, columns, SAMPLE_ROWS, raw, o->flips);
    for (int digit = 0; o->n_bytes * 8 >> digit; digit++) {
        fill_digit(raw, o->n_bytes, digit);
        fb_layout_unpack(layout, columns, SAMPLE_ROWS, raw, form);
        for (size_t i = 0; i < o->n_bytes; i++) {
            uint32_t ones = form[i] ^ o->flips[i];
            for (int k = 0; k < 8; k++) {
                o->source[8 * i + (size_t)k] |= (ones >> k & 1) << digit;
            }
        }
    }
    free(raw);
    free(form);
}

static void release_order(struct bit_order *o)
{
    free(o->source);
    free(o->flips);
}

/* Where a bit of the result comes from. */
struct bit_origin {
    size_t row, block, byte, bit;
};

static struct bit_origin origin_of(const struct bit_order *o, size_t bit)
{
    size_t byte = o->source[bit] / 8, in_row = byte % o->row_bytes;
    return (struct bit_origin){
        byte / o->row_bytes, in_row / o->block_bytes, in_row % o->block_bytes, o->source[bit] % 8};
}

/* Whether the sample consists of tiles of so many rows, all made in the same way, each from one
 * block of its own rows. */
static bool is_tiled(const struct bit_order *o, size_t rows)
{
    size_t tile_bytes = rows * o->block_bytes, n_tiles = o->n_bytes / tile_bytes;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        size_t row = tile / (size_t)o->n_blocks * rows, block = tile % (size_t)o->n_blocks;
        for (size_t bit = 0; bit < 8 * tile_bytes; bit++) {
            struct bit_origin is = origin_of(o, 8 * tile * tile_bytes + bit),
                              first = origin_of(o, bit);
            if (is.row != row + first.row || is.block != block || is.byte != first.byte ||
                is.bit != first.bit || first.row >= rows) {
                return false;
            }
        }
        if (memcmp(o->flips, o->flips + tile * tile_bytes, tile_bytes) != 0) {
            return false;
        }
    }
    return true;
}

/* --- As moves --------------------------------------------------------------------------------- */

/* Whether `n` bytes of the tile are `n` adjacent bytes of one row. */
static bool stay_together(const struct bit_order *o, size_t tile_bytes, size_t at, size_t n)
{
    if (at + n > tile_bytes) {
        return false;
    }
    const uint32_t *source = o->source + 8 * at;
    for (size_t k = 0; k < 8 * n; k++) {
        if (source[k] != source[0] + k) {
            return false;
        }
    }
    return source[0] % 8 == 0 && origin_of(o, 8 * at).row == origin_of(o, 8 * (at + n) - 1).row;
}

static struct move move_of(
    const struct fb_shuffle *s, const struct bit_order *o, size_t at, size_t n)
{
    struct bit_origin from = origin_of(o, 8 * at);
    struct move m = {(uint32_t)(from.row * s->row_bytes + from.byte), (uint32_t)at, 0};
    memcpy(&m.flip, o->flips + at, n);
    return m;
}

/* Adds moves of n bytes, for bytes of the tile that no move covers yet. */
static int add_moves(
    struct fb_shuffle *s, const struct bit_order *o, struct move *out, size_t n, bool *moved)
{
    int count = 0;
    for (size_t at = 0; at < s->tile_bytes; at++) {
        if (!moved[at] && stay_together(o, s->tile_bytes, at, n)) {
            out[count++] = move_of(s, o, at, n);
            memset(moved + at, true, n);
            at += n - 1;
        }
    }
    return count;
}

/* Covers the rest of the tile with mixes of eight bytes, which may overlap bytes that are moved,
 * and adds moves that gather the mixes' source bytes: byte after byte, and row after row of each
 * byte, so that neighbours in the tile are mostly neighbours there, too. position[byte * rows
 * + row] is where a source byte is among the mixed bytes. False when there are too many. */
static bool gather_mixed(struct fb_shuffle *s, const struct bit_order *o, struct move *out,
    const bool *moved, int *position)
{
    size_t rows = (size_t)s->rows;
    s->mixes = fb_xcalloc(s->tile_bytes, sizeof *s->mixes);
    for (size_t at = 0; at < s->tile_bytes; at++) {
        if (moved[at]) {
            continue;
        }
        if (s->tile_bytes < 8) {
            return false;
        }
        size_t to = at + 8 <= s->tile_bytes ? at : s->tile_bytes - 8;
        struct mix *mix = &s->mixes[s->n_mixes++];
        mix->to = (uint32_t)to;
        memcpy(&mix->flip, o->flips + to, 8);
        for (size_t bit = 8 * to; bit < 8 * (to + 8); bit++) {
            struct bit_origin from = origin_of(o, bit);
            position[from.byte * rows + from.row] = 1;
        }
        at = to + 7;
    }
    for (size_t i = 0; i < s->tile_bytes; i++) {
        if (position[i]) {
            position[i] = s->n_mixed;
            out[s->n_mixed] = (struct move){
                (uint32_t)(i % rows * s->row_bytes + i / rows), (uint32_t)s->n_mixed, 0};
            s->n_mixed++;
        }
    }
    return s->n_mixed <= MAX_MIXED_BYTES;
}

static void add_terms(struct fb_shuffle *s, const struct bit_order *o, const int *position)
{
    s->terms = fb_xcalloc(64 * (size_t)s->n_mixes + 1, sizeof *s->terms);
    for (int i = 0; i < s->n_mixes; i++) {
        struct mix *mix = &s->mixes[i];
        struct term *terms = s->terms + s->n_terms;
        for (uint32_t k = 0; k < 64; k++) {
            struct bit_origin from = origin_of(o, 8 * (size_t)mix->to + k);
            uint32_t at =
                8 * (uint32_t)position[from.byte * (size_t)s->rows + from.row] + (uint32_t)from.bit;
            uint32_t word = at / 64, turn = (k - at) & 63;
            int t = 0;
            while (t < mix->n_terms && (terms[t].word != word || terms[t].turn != turn)) {
                t++;
            }
            mix->n_terms += t == mix->n_terms;
            terms[t].word = word;
            terms[t].turn = turn;
            terms[t].mask |= UINT64_C(1) << k;
        }
        s->n_terms += mix->n_terms;
    }
}

static bool make_moves(struct fb_shuffle *s, const struct bit_order *o)
{
    bool *moved = fb_xcalloc(s->tile_bytes, sizeof *moved);
    int *position = fb_xcalloc(s->tile_bytes, sizeof *position);
    s->moves = fb_xcalloc(2 * s->tile_bytes, sizeof *s->moves);
    struct move *out = s->moves;
    out += s->n_eights = add_moves(s, o, out, 8, moved);
    out += s->n_twos = add_moves(s, o, out, 2, moved);
    out += s->n_ones = add_moves(s, o, out, 1, moved);
    bool can = gather_mixed(s, o, out, moved, position);
    if (can) {
        add_terms(s, o, position);
    }
    free(moved);
    free(position);
    return can;
}

/* --- Learning -------------------------------------------------------------------------------- */

/* Whether it unpacks random rows as llama.cpp does. */
static bool agrees(const struct fb_shuffle *s, const struct fb_layout *layout)
{
    size_t n = s->row_bytes * SAMPLE_ROWS;
    uint8_t *raw = fb_xmalloc(n), *ours = fb_xcalloc(n, 1), *theirs = fb_xcalloc(n, 1);
    fb_layout_trial_bytes(raw, n);
    fb_shuffle_unpack(s, raw, SAMPLE_ROWS, ours);
    fb_layout_unpack(layout, s->columns, SAMPLE_ROWS, raw, theirs);
    bool same = memcmp(ours, theirs, n) == 0;
    free(raw);
    free(ours);
    free(theirs);
    return same;
}

static void learn(struct fb_shuffle *s, const struct fb_layout *layout)
{
    int64_t block = ggml_blck_size(s->type);
    int64_t columns = SAMPLE_BLOCKS * block < s->columns ? SAMPLE_BLOCKS * block : s->columns;
    struct bit_order order;
    learn_order(&order, layout, columns);
    s->row_bytes = ggml_row_size(s->type, s->columns);
    s->block_bytes = order.block_bytes;
    s->n_blocks = (int)(s->row_bytes / s->block_bytes);
    s->rows = 1;
    while (s->rows <= MAX_ROWS && !is_tiled(&order, (size_t)s->rows)) {
        s->rows *= 2;
    }
    s->tile_bytes = (size_t)s->rows * s->block_bytes;
    s->usable = s->rows <= MAX_ROWS && make_moves(s, &order) && agrees(s, layout);
    release_order(&order);
}

/* Whether a shuffle may exist: rows are interleaved, and take as many bytes as in the file. */
static bool may_be_learnt(const struct fb_layout *layout)
{
    size_t row_bytes = ggml_row_size(layout->type, layout->unit_ne[0]);
    return fb_layout_is_interleaved(layout) && layout->unit_ne[2] * layout->unit_ne[3] == 1 &&
           row_bytes <= MAX_ROW_BYTES &&
           fb_layout_bytes(layout, layout->unit_ne[0], SAMPLE_ROWS) == row_bytes * SAMPLE_ROWS;
}

static struct fb_shuffle *find(const struct fb_layout *layout)
{
    struct fb_shuffle *s = atomic_load(&fb_device.shuffles);
    while (s && (s->buft != layout->buft || s->extra != layout->extra || s->type != layout->type ||
                    s->columns != layout->unit_ne[0])) {
        s = s->next;
    }
    return s;
}

const struct fb_shuffle *fb_shuffle_of(const struct fb_layout *layout)
{
    if (!may_be_learnt(layout)) {
        return NULL;
    }
    struct fb_shuffle *s = find(layout);
    if (!s) { /* two threads may learn the same kind; two entries are harmless */
        s = fb_xcalloc(1, sizeof *s);
        s->buft = layout->buft;
        s->extra = layout->extra;
        s->type = layout->type;
        s->columns = layout->unit_ne[0];
        learn(s, layout);
        s->next = atomic_load(&fb_device.shuffles);
        while (!atomic_compare_exchange_weak(&fb_device.shuffles, &s->next, s)) {
        }
    }
    return s->usable && layout->unit_ne[1] % s->rows == 0 ? s : NULL;
}
