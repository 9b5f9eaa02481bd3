/*
 * neurons.h - computes the rows of an expert that is a source's FFN with its neurons in another
 * order.
 *
 *      gate, up   neurons are rows         down   neurons are columns
 *      source     [n0 n1 n2 n3]            [c0 c1 c2 c3]
 *      expert     [n2  0 n0 n3  0 n1]      [c2  0 c0 c3  0 c1]
 *
 * Neurons move in groups as large as the blocks of the down matrix, so that quantised weights are
 * copied unchanged. All tensors of one layer and expert use the same order.
 */
#ifndef FB_SYNTH_NEURONS_H
#define FB_SYNTH_NEURONS_H

#include "model/catalog.h"
#include "synth/gguf_model.h"

struct fb_neurons {
    struct fb_catalog *source;
    uint64_t seed;
    int source_experts; /* 1 for a dense source */
    int64_t group;      /* neurons that move together */
    int64_t source_ff;
    int64_t padded_ff; /* source_ff, rounded up to whole groups */
    int64_t ff;        /* of the new expert: a multiple of group, at least padded_ff */
    /* cached: one expert of one source tensor, converted to the new type */
    int matrix_tensor, matrix_expert;
    uint8_t *matrix;
    uint8_t *zeros; /* a row of zeros in that type, as long as any row or group */
    /* cached: order[i] is the source's group at position i of the new expert, -1 for zeros */
    int order_layer, order_expert;
    int32_t *order;
};

/* The caller sets the fields from source_experts to ff before the first row. `source` must outlive
 * it. */
void fb_neurons_init(struct fb_neurons *neurons, struct fb_catalog *source, uint64_t seed);
void fb_neurons_release(struct fb_neurons *neurons);

/* Writes row `row`, counted over all experts, of the new tensor `to`, which is made of the source's
 * tensor number `tensor`; `columns`: neurons are columns. E_IO or E_FORMAT when the source cannot
 * be read. */
enum forebay_status fb_neurons_row(struct fb_neurons *neurons, const struct fb_synth_tensor *to,
    int tensor, bool columns, int64_t row, uint8_t *out, struct forebay_error *err);

/* Reads bytes of a source tensor unchanged. */
enum forebay_status fb_neurons_read(struct fb_neurons *neurons, int tensor, uint64_t at, void *out,
    uint64_t length, struct forebay_error *err);

#endif
