/*
 * elastic.c - chooses a ring for streaming, ranks weights, and counts.
 *
 * The ranking takes every second piece of neighbours in file order, then every second of the rest,
 * and so on:
 *
 *      piece  0  1  2  3  4  5  6  7
 *      rank   0  4  1  6  2  5  3  7
 */
#include "stream/elastic.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"

/* Smaller weights are not worth a read of their own. */
#define ELASTIC_MIN (64 * FB_KIB)
#define RING_DEPTH  3
/* Neighbours are given back together, because the kernel keeps a huge page that is only partly
 * given back until it needs the memory. (Of 400 MiB of weights of 0.6 and 2 MiB, giving back every
 * second one freed only 110 MiB.) */
#define PIECES     32
#define PIECE_MOST (8 * FB_MIB)

/* Sizes ring and scratch for a plan that has none: for all resident weights but the output matrix,
 * which may be many times as large as the others. */
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
    return w->group < 0 && e->present[i] && w->stride >= ELASTIC_MIN &&
           fb_weight_envelope(e->weights, i) <= ring &&
           (w->unpack == FB_UNPACK_DIRECT || w->stride <= scratch);
}

/* Divides the n candidates, in file order, into pieces of neighbours: piece k is
 * [first[k], first[k + 1]). Returns the number of pieces. */
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
    e->present = fb_xcalloc(n, sizeof *e->present);
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
        e->present[i] = weights->weights[i].group < 0 && resident[i];
        if (can_stream(e, i, ring_bytes, scratch_bytes)) {
            candidates[n_candidates++] = i;
            e->most_bytes += weights->weights[i].stride;
        }
    }
    rank(e, candidates, n_candidates);
    free(candidates);
    e->present_bytes = e->most_bytes;
    e->least_bytes = e->ring_bytes + e->scratch_bytes;
}

void fb_elastic_release(struct fb_elastic *e)
{
    free(e->present);
    free(e->rank);
    free(e->ranked);
}

bool fb_elastic_present(const struct fb_elastic *e, int weight)
{
    return e->present[weight];
}

uint64_t fb_elastic_held(const struct fb_elastic *e)
{
    return e->present_bytes + (e->ring_used ? e->least_bytes : 0);
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
        if (e->present[weight]) {
            e->present[weight] = false;
            e->present_bytes -= e->weights->weights[weight].stride;
            e->n_streamed++;
            e->ring_used = e->least_bytes > 0;
            return weight;
        }
    }
    return -1;
}

bool fb_elastic_restore(struct fb_elastic *e, int weight)
{
    if (e->present[weight] || e->rank[weight] < e->n_wanted) {
        return false; /* rank -1, never resident, is less, too */
    }
    e->present[weight] = true;
    e->present_bytes += e->weights->weights[weight].stride;
    e->n_streamed--;
    return true;
}
