#include "backend/shuffle.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/internal.h"
#include "base/error.h"
#include "base/units.h"

#define MOST_ROWS   16 /* of a tile */
#define SAMPLE_ROWS (4 * MOST_ROWS)
#define SAMPLE_WIDE 2             /* blocks of a row */
#define MOST_BYTES  (16 * FB_MIB) /* of a row */
#define MOST_MIXED  1024          /* bytes of a tile of which bits go apart */

/* Bytes of the source, counted from a tile's first, that keep together; `flip` is what they are xored
 * with. */
struct move {
    uint32_t from, to;
    uint64_t flip;
};

/* Bits of a word of the mixed bytes, turned left. */
struct term {
    uint32_t word, turn;
    uint64_t mask; /* after turning */
};

/* Eight bytes of a tile that come from several. */
struct mix {
    uint32_t to;
    int n_terms;
    uint64_t flip;
};

struct shuffle {
    struct shuffle *next;
    /* What it is the order of: */
    ggml_backend_buffer_type_t layout;
    const void *extra;
    enum ggml_type type;
    int64_t columns;

    bool usable;
    int rows; /* of a tile */
    int n_blocks;
    size_t block_bytes, row_bytes, tile_bytes;
    /* Moves of eight, two and one byte into the tile, and of one to the mixed bytes. */
    struct move *moves;
    int n_eights, n_twos, n_ones, n_mixed;
    struct mix *mixes;
    struct term *terms;
    int n_mixes, n_terms;
};

/* --- Using it -------------------------------------------------------------------------------- */

static void put_tile(const struct shuffle *s, const uint8_t *from, uint8_t *to)
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
        uint8_t bytes[MOST_MIXED];
        uint64_t words[MOST_MIXED / 8];
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

void fb_shuffle_unpack(const struct shuffle *s, const void *raw, int64_t rows, void *dest)
{
    const uint8_t *from = raw;
    uint8_t *to = dest;
    FB_ASSERT(rows % s->rows == 0);
    for (int64_t row = 0; row < rows; row += s->rows) {
        for (int b = 0; b < s->n_blocks; b++, to += s->tile_bytes) {
            put_tile(s, from + (size_t)b * s->block_bytes, to);
        }
        from += (size_t)s->rows * s->row_bytes;
    }
}

/* --- What becomes of a sample's bits --------------------------------------------------------- */

struct order {
    size_t n_bytes, row_bytes, block_bytes;
    int n_blocks;
    uint32_t *source; /* [8 x n_bytes] the bit that each bit of the result comes from */
    uint8_t *flips;   /* [n_bytes] what the result of zeros is */
};

/* Each bit's number, one binary digit at a time. */
static void fill_digit(uint8_t *raw, size_t n, int digit)
{
    static const uint8_t within[] = {0xaa, 0xcc, 0xf0};
    for (size_t i = 0; i < n; i++) {
        raw[i] = digit < 3 ? within[digit] : (i >> (digit - 3)) & 1 ? 0xff : 0;
    }
}

static void learn_order(struct order *o, const struct claim *claim, int64_t columns)
{
    o->row_bytes = ggml_row_size(claim->type, columns);
    o->block_bytes = ggml_type_size(claim->type);
    o->n_blocks = (int)(o->row_bytes / o->block_bytes);
    o->n_bytes = o->row_bytes * SAMPLE_ROWS;
    o->source = fb_xcalloc(o->n_bytes * 8, sizeof *o->source);
    o->flips = fb_xcalloc(o->n_bytes, 1);
    uint8_t *raw = fb_xcalloc(o->n_bytes, 1), *form = fb_xcalloc(o->n_bytes, 1);
    fb_layout_unpack(claim, columns, SAMPLE_ROWS, raw, o->flips);
    for (int digit = 0; o->n_bytes * 8 >> digit; digit++) {
        fill_digit(raw, o->n_bytes, digit);
        fb_layout_unpack(claim, columns, SAMPLE_ROWS, raw, form);
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

static void free_order(struct order *o)
{
    free(o->source);
    free(o->flips);
}

/* Where a bit comes from. */
struct origin {
    size_t row, block, byte, bit;
};

static struct origin origin_of(const struct order *o, size_t bit)
{
    size_t byte = o->source[bit] / 8, in_row = byte % o->row_bytes;
    return (struct origin){
        byte / o->row_bytes, in_row / o->block_bytes, in_row % o->block_bytes, o->source[bit] % 8};
}

/* Whether tiles of so many rows are made alike, each of its own rows' blocks. */
static bool is_tiled(const struct order *o, size_t rows)
{
    size_t tile_bytes = rows * o->block_bytes, n_tiles = o->n_bytes / tile_bytes;
    for (size_t tile = 0; tile < n_tiles; tile++) {
        size_t row = tile / (size_t)o->n_blocks * rows, block = tile % (size_t)o->n_blocks;
        for (size_t bit = 0; bit < 8 * tile_bytes; bit++) {
            struct origin is = origin_of(o, 8 * tile * tile_bytes + bit), first = origin_of(o, bit);
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

/* Whether `n` bytes of the tile come together from one row. */
static bool keep_together(const struct order *o, size_t tile_bytes, size_t at, size_t n)
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

static struct move move_of(const struct shuffle *s, const struct order *o, size_t at, size_t n)
{
    struct origin from = origin_of(o, 8 * at);
    struct move m = {(uint32_t)(from.row * s->row_bytes + from.byte), (uint32_t)at, 0};
    memcpy(&m.flip, o->flips + at, n);
    return m;
}

/* Moves of n bytes, for bytes of the tile that have none yet. */
static int add_moves(
    struct shuffle *s, const struct order *o, struct move *out, size_t n, bool *moved)
{
    int count = 0;
    for (size_t at = 0; at < s->tile_bytes; at++) {
        if (!moved[at] && keep_together(o, s->tile_bytes, at, n)) {
            out[count++] = move_of(s, o, at, n);
            memset(moved + at, true, n);
            at += n - 1;
        }
    }
    return count;
}

/* What is left comes in words of the tile, which may take in bytes that are moved, too: those that
 * the words come from are gathered, byte after byte and of each byte row after row, so that what
 * lies beside one another in the tile mostly does so there. place[]: where they are. */
static bool gather_mixed(
    struct shuffle *s, const struct order *o, struct move *out, const bool *moved, int *place)
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
            struct origin from = origin_of(o, bit);
            place[from.byte * rows + from.row] = 1;
        }
        at = to + 7;
    }
    for (size_t i = 0; i < s->tile_bytes; i++) {
        if (place[i]) {
            place[i] = s->n_mixed;
            out[s->n_mixed] = (struct move){
                (uint32_t)(i % rows * s->row_bytes + i / rows), (uint32_t)s->n_mixed, 0};
            s->n_mixed++;
        }
    }
    return s->n_mixed <= MOST_MIXED;
}

static void add_terms(struct shuffle *s, const struct order *o, const int *place)
{
    s->terms = fb_xcalloc(64 * (size_t)s->n_mixes + 1, sizeof *s->terms);
    for (int i = 0; i < s->n_mixes; i++) {
        struct mix *mix = &s->mixes[i];
        struct term *terms = s->terms + s->n_terms;
        for (uint32_t k = 0; k < 64; k++) {
            struct origin from = origin_of(o, 8 * (size_t)mix->to + k);
            uint32_t at =
                8 * (uint32_t)place[from.byte * (size_t)s->rows + from.row] + (uint32_t)from.bit;
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

static bool make_moves(struct shuffle *s, const struct order *o)
{
    bool *moved = fb_xcalloc(s->tile_bytes, sizeof *moved);
    int *place = fb_xcalloc(s->tile_bytes, sizeof *place);
    s->moves = fb_xcalloc(2 * s->tile_bytes, sizeof *s->moves);
    struct move *out = s->moves;
    out += s->n_eights = add_moves(s, o, out, 8, moved);
    out += s->n_twos = add_moves(s, o, out, 2, moved);
    out += s->n_ones = add_moves(s, o, out, 1, moved);
    bool can = gather_mixed(s, o, out, moved, place);
    if (can) {
        add_terms(s, o, place);
    }
    free(moved);
    free(place);
    return can;
}

/* --- Learning ---------------------------------------------------------------------------------- */

/* Random rows, put into place by it and by llama.cpp. */
static bool does_the_same(const struct shuffle *s, const struct claim *claim)
{
    size_t n = s->row_bytes * SAMPLE_ROWS;
    uint8_t *raw = fb_xmalloc(n), *ours = fb_xcalloc(n, 1), *theirs = fb_xcalloc(n, 1);
    fb_made_up_bytes(raw, n);
    fb_shuffle_unpack(s, raw, SAMPLE_ROWS, ours);
    fb_layout_unpack(claim, s->columns, SAMPLE_ROWS, raw, theirs);
    bool same = memcmp(ours, theirs, n) == 0;
    free(raw);
    free(ours);
    free(theirs);
    return same;
}

static void learn(struct shuffle *s, const struct claim *claim)
{
    int64_t block = ggml_blck_size(s->type);
    int64_t wide = SAMPLE_WIDE * block < s->columns ? SAMPLE_WIDE * block : s->columns;
    struct order order;
    learn_order(&order, claim, wide);
    s->row_bytes = ggml_row_size(s->type, s->columns);
    s->block_bytes = order.block_bytes;
    s->n_blocks = (int)(s->row_bytes / s->block_bytes);
    s->rows = 1;
    while (s->rows <= MOST_ROWS && !is_tiled(&order, (size_t)s->rows)) {
        s->rows *= 2;
    }
    s->tile_bytes = (size_t)s->rows * s->block_bytes;
    s->usable = s->rows <= MOST_ROWS && make_moves(s, &order) && does_the_same(s, claim);
    free_order(&order);
}

/* Whether learning may be tried: the layouts that interleave rows, and take no more than these. */
static bool is_interleaved(const struct claim *claim)
{
    size_t row_bytes = ggml_row_size(claim->type, claim->unit_ne[0]);
    return claim->layout && claim->unit_ne[2] * claim->unit_ne[3] == 1 && row_bytes <= MOST_BYTES &&
           strcmp(ggml_backend_buft_name(claim->layout), "CPU_REPACK") == 0 &&
           fb_layout_bytes(claim, claim->unit_ne[0], SAMPLE_ROWS) == row_bytes * SAMPLE_ROWS;
}

/* All that were learnt. They are not changed any more, and never freed. */
static _Atomic(struct shuffle *) known;

static struct shuffle *find(const struct claim *claim)
{
    struct shuffle *s = atomic_load(&known);
    while (s && (s->layout != claim->layout || s->extra != claim->form_extra ||
                    s->type != claim->type || s->columns != claim->unit_ne[0])) {
        s = s->next;
    }
    return s;
}

const struct shuffle *fb_shuffle_of(const struct claim *claim)
{
    if (!is_interleaved(claim)) {
        return NULL;
    }
    struct shuffle *s = find(claim);
    if (!s) { /* two threads may both learn it: then there are two */
        s = fb_xcalloc(1, sizeof *s);
        s->layout = claim->layout;
        s->extra = claim->form_extra;
        s->type = claim->type;
        s->columns = claim->unit_ne[0];
        learn(s, claim);
        s->next = atomic_load(&known);
        while (!atomic_compare_exchange_weak(&known, &s->next, s)) {
        }
    }
    return s->usable && claim->unit_ne[1] % s->rows == 0 ? s : NULL;
}
