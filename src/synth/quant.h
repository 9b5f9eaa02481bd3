/*
 * quant.h - chooses the type of each tensor of a synthetic model, and quantises.
 *
 * A GGUF type name ("Q4_K") is used for every matrix. A mix ("Q4_K_M") gives some tensors a better
 * type, the same ones as llama-quantize. If the row length is not a multiple of the type's block, a
 * type with smaller blocks is used instead, also as llama-quantize does.
 */
#ifndef FB_SYNTH_QUANT_H
#define FB_SYNTH_QUANT_H

#include "synth/gguf_model.h"

struct fb_synth_quant {
    const char *name;
    /* All enum ggml_type: */
    int base;   /* for matrices that have no other rule */
    int more;   /* V and down matrices of some layers */
    int output; /* the output matrix */
    int expert; /* experts */
};

/* Case-insensitive. E_USAGE when the name is unknown. */
enum forebay_status fb_synth_quant_parse(
    const char *name, struct fb_synth_quant *out, struct forebay_error *err);

/* The type of a tensor in layer `layer` of `n_layer`. */
int fb_synth_quant_pick(const struct fb_synth_quant *quant, enum fb_synth_part part, int layer,
    int n_layer, int64_t row_length);

/* True for the types that fb_synth_quant_parse knows: only these can be converted to floats and
 * back. */
bool fb_synth_quant_known(int type);

/* Quantises rows of floats, with a flat importance matrix for types that need one. `out` has room
 * for n_rows * ggml_row_size bytes. */
void fb_synth_quantize(int type, const float *rows, int64_t n_rows, int64_t row_length, void *out);

/* Writes a row of zeros. */
void fb_synth_zeros(int type, int64_t row_length, void *out);

/* For types whose quantisation tables take seconds to build: fills whole blocks with random
 * bits (every pattern is valid) and sets each block's scale so that its weights have the given
 * spread. False, nothing written, for all other types. */
bool fb_synth_random_blocks(int type, uint64_t key, float spread, int64_t n_blocks, void *out);

#endif
