/*
 * neurons.h - the rows of an expert made from a source's FFN, its neurons in another order.
 *
 *      gate, up   neurons are rows         down   neurons are columns
 *      source     [n0 n1 n2 n3]            [c0 c1 c2 c3]
 *      expert     [n2  0 n0 n3  0 n1]      [c2  0 c0 c3  0 c1]
 *
 * Neurons move in groups as large as the blocks of the down matrix, so that quantised weights move
 * unchanged. All tensors of one layer and expert have the same order.
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
    int64_t padded_ff; /* the source's, filled up to whole groups */
    int64_t ff;        /* of the expert that is made: a multiple of group, at least padded_ff */
    /* one expert of one source tensor, in the type that is asked for */
    int matrix_tensor, matrix_expert;
    uint8_t *matrix;
    uint8_t *zeros; /* a row of zeros in that type, as long as any row or group */
    /* order[place] is a group of the source, or -1 for zeros */
    int order_layer, order_expert;
    int32_t *order;
};

/* The numbers from source_experts to ff are set by the caller before the first row. */
void fb_neurons_init(struct fb_neurons *neurons, struct fb_catalog *source, uint64_t seed);
void fb_neurons_release(struct fb_neurons *neurons);

/* Row `row`, counted over all experts, of `to`, which is made of the source's tensor number
 * `tensor`. E_IO or E_FORMAT when the source cannot be read. */
enum forebay_status fb_neurons_row(struct fb_neurons *neurons, const struct fb_synth_tensor *to,
    int tensor, bool columns, int64_t row, uint8_t *out, struct forebay_error *err);

/* Bytes of a source tensor as they are. */
enum forebay_status fb_neurons_read(struct fb_neurons *neurons, int tensor, uint64_t at, void *out,
    uint64_t length, struct forebay_error *err);

#endif
