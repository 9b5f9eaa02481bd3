#include "stream/elastic.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"

/* Not worth a read of their own. */
#define ELASTIC_MIN (64 * FB_KIB)
#define RING_DEPTH  3
/* Neighbours are given back together: of a huge page that is given back in part, the kernel keeps
 * the memory until it needs it. (400 MiB of weights of 0.6 and 2 MiB, every second one: 110 MiB.) */
#define PIECES     32
#define PIECE_MOST (8 * FB_MIB)

/* Room for a ring and scratch that the plan did not need: for all kept weights but the output
 * matrix, which may be many times as large as the others. */
static void choose_ring(struct fb_elastic *e, const bool *resident)
{
    uint64_t largest = 0, sum = 0;
    for (int i = 0; i < e->weights->n_weights; i++) {
        const struct fb_weight *w = &e->weights->weights[i];
        bool output = e->weights->catalog->tensors[w->tensor].role == FB_ROLE_OUTPUT;
        if (w->group >= 0 || !resident[i] || output || w->stride < ELASTIC_MIN) {
            continue;
        }
        largest = fb_max(largest, fb_weight_envelope(e->weights, i));
        sum += w->stride;
        if (w->unpack != FB_UNPACK_DIRECT) {
            e->scratch_bytes = fb_max(e->scratch_bytes, w->stride);
        }
    }
    e->ring_bytes =
        fb_round_down(fb_max(largest, fb_min(RING_DEPTH * largest, sum / 8)), FB_BLOCK_BYTES);
    e->ring_bytes = fb_max(e->ring_bytes, largest);
    if (e->ring_bytes + e->scratch_bytes >= sum / 2) { /* too little to gain */
        e->ring_bytes = e->scratch_bytes = 0;
    }
}

static bool can_stream(const struct fb_elastic *e, int i, uint64_t ring, uint64_t scratch)
{
    const struct fb_weight *w = &e->weights->weights[i];
    return w->group < 0 && e->kept[i] && w->stride >= ELASTIC_MIN &&
           fb_weight_envelope(e->weights, i) <= ring &&
           (w->unpack == FB_UNPACK_DIRECT || w->stride <= scratch);
}

/* The n candidates in file order as pieces of neighbours: first[k] is the first of piece k. */
static int make_pieces(const struct fb_elastic *e, const int *candidates, int n, int *first)
{
    uint64_t least = fb_min(e->most_bytes / PIECES, PIECE_MOST), bytes = 0;
    int n_pieces = 0;
    for (int i = 0; i < n; i++) {
        if (bytes == 0) {
            first[n_pieces++] = i;
        }
        bytes += e->weights->weights[candidates[i]].stride;
        bytes = bytes >= least ? 0 : bytes;
    }
    first[n_pieces] = n;
    return n_pieces;
}

/* Ranks the candidates: every second piece, then every second of the rest, and so on. */
static void rank(struct fb_elastic *e, const int *candidates, int n)
{
    int *first = fb_xcalloc((size_t)n + 1, sizeof *first);
    int *pieces = fb_xcalloc((size_t)n + 1, sizeof *pieces);
    int n_left = make_pieces(e, candidates, n, first);
    for (int k = 0; k < n_left; k++) {
        pieces[k] = k;
    }
    while (n_left > 0) {
        int left = 0;
        for (int k = 0; k < n_left; k++) {
            if (k % 2) {
                pieces[left++] = pieces[k];
                continue;
            }
            for (int i = first[pieces[k]]; i < first[pieces[k] + 1]; i++) {
                e->rank[candidates[i]] = e->n_ranked;
                e->ranked[e->n_ranked++] = candidates[i];
            }
        }
        n_left = left;
    }
    free(first);
    free(pieces);
}

void fb_elastic_init(struct fb_elastic *e, const struct fb_weights *weights, const bool *resident,
    uint64_t ring_bytes, uint64_t scratch_bytes)
{
    size_t n = (size_t)weights->n_weights;
    *e = (struct fb_elastic){.weights = weights};
    e->kept = fb_xcalloc(n, sizeof *e->kept);
    e->rank = fb_xcalloc(n, sizeof *e->rank);
    e->ranked = fb_xcalloc(n, sizeof *e->ranked);
    int *candidates = fb_xcalloc(n, sizeof *candidates);
    int n_candidates = 0;
    if (ring_bytes == 0) {
        choose_ring(e, resident);
        ring_bytes = e->ring_bytes;
        scratch_bytes = e->scratch_bytes;
    }
    for (int i = 0; i < weights->n_weights; i++) {
        e->rank[i] = -1;
        e->kept[i] = weights->weights[i].group < 0 && resident[i];
        if (can_stream(e, i, ring_bytes, scratch_bytes)) {
            candidates[n_candidates++] = i;
            e->most_bytes += weights->weights[i].stride;
        }
    }
    rank(e, candidates, n_candidates);
    free(candidates);
    e->kept_bytes = e->most_bytes;
    e->least_bytes = e->ring_bytes + e->scratch_bytes;
}

void fb_elastic_release(struct fb_elastic *e)
{
    free(e->kept);
    free(e->rank);
    free(e->ranked);
}

bool fb_elastic_kept(const struct fb_elastic *e, int weight)
{
    return e->kept[weight];
}

uint64_t fb_elastic_held(const struct fb_elastic *e)
{
    return e->kept_bytes + (e->ring_used ? e->least_bytes : 0);
}

uint64_t fb_elastic_plan(struct fb_elastic *e, uint64_t bytes)
{
    uint64_t held = e->most_bytes;
    e->n_wanted = 0;
    if (held > bytes) {
        held += e->least_bytes;
    }
    while (e->n_wanted < e->n_ranked && held > bytes) {
        held -= e->weights->weights[e->ranked[e->n_wanted++]].stride;
    }
    return held;
}

int fb_elastic_drop(struct fb_elastic *e)
{
    for (int r = 0; r < e->n_wanted; r++) {
        int weight = e->ranked[r];
        if (e->kept[weight]) {
            e->kept[weight] = false;
            e->kept_bytes -= e->weights->weights[weight].stride;
            e->n_streamed++;
            e->ring_used = e->least_bytes > 0;
            return weight;
        }
    }
    return -1;
}

bool fb_elastic_restore(struct fb_elastic *e, int weight)
{
    if (e->kept[weight] || e->rank[weight] < e->n_wanted) {
        return false; /* -1 is less, too: never kept */
    }
    e->kept[weight] = true;
    e->kept_bytes += e->weights->weights[weight].stride;
    e->n_streamed--;
    return true;
}
