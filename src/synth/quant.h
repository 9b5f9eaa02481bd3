/*
 * quant.h - which tensor type a tensor of a made model gets.
 *
 * A type by its GGUF name ("Q4_K") is used for every matrix; a mix ("Q4_K_M") gives the tensors
 * that matter more a better one, in the places where llama-quantize does. A row length that is no
 * multiple of the type's block falls back to a type with smaller blocks, also as there.
 */
#ifndef FB_SYNTH_QUANT_H
#define FB_SYNTH_QUANT_H

#include "synth/gguf_model.h"

struct fb_synth_quant {
    const char *name;
    int base;   /* enum ggml_type, all of these */
    int more;   /* V and down matrices of some layers */
    int output; /* the output matrix */
    int expert; /* experts */
};

/* Case-insensitive. E_USAGE when the name is unknown. */
enum forebay_status fb_synth_quant_parse(
    const char *name, struct fb_synth_quant *out, struct forebay_error *err);

/* The type of a tensor; `layer` and `n_layer` place it in the model. */
int fb_synth_quant_pick(const struct fb_synth_quant *quant, enum fb_synth_part part, int layer,
    int n_layer, int64_t row_length);

/* True for the types that fb_synth_quant_parse knows: others cannot be read as floats or made. */
bool fb_synth_quant_known(int type);

/* Quantises rows of floats; knows which types need an importance matrix. `out` holds
 * n_rows * ggml_row_size bytes. */
void fb_synth_quantize(int type, const float *rows, int64_t n_rows, int64_t row_length, void *out);

/* A row of zeros. */
void fb_synth_zeros(int type, int64_t row_length, void *out);

/* For the types whose quantisation tables take seconds to build: fills whole blocks with random bits
 * (every pattern is valid) and sets each block's scale so that its weights have the given spread.
 * False, nothing written, for all other types. */
bool fb_synth_random_blocks(int type, uint64_t key, float spread, int64_t n_blocks, void *out);

#endif
