/* model_options.h - a model's options with every default filled in, and what follows from them. */
#ifndef FB_ENGINE_MODEL_OPTIONS_H
#define FB_ENGINE_MODEL_OPTIONS_H

#include "forebay.h"
#include "model/catalog.h"

/* Sequences in one context: llama.cpp's own limit (LLAMA_MAX_SEQ). */
#define FB_SEQ_MAX 256

/* Fills in the defaults of all options but `ctx`, mem_bytes included, and checks their ranges.
 * E_USAGE names the option. */
enum forebay_status fb_options_fill(
    struct forebay_model_options *options, struct forebay_error *err);

/* Whether experts are to be in slots on a device, and the last *n_whole layers with theirs. */
bool fb_options_slots(const struct forebay_model_options *options, int *n_whole);

/* Whether slots, if there are any, may be those of the stream. */
bool fb_options_share_slots(const struct forebay_model_options *options);

/* Fills in `ctx` with the least default, once the file is known, and limits `batch` to it. E_USAGE
 * when the context is too large for all sequences together. */
enum forebay_status fb_options_fill_ctx(struct forebay_model_options *options,
    const struct fb_catalog *catalog, struct forebay_error *err);

/* The longest context that the model was trained for and that all sequences may have; at least
 * `ctx`. */
uint32_t fb_options_longest_ctx(
    const struct forebay_model_options *options, const struct fb_catalog *catalog);

/* Sequences that a session may use: those that grow and those that are kept. */
uint32_t fb_options_sequences(const struct forebay_model_options *options);

/* Tokens that the KV cache has room for. */
uint32_t fb_options_cells(const struct forebay_model_options *options);

/* Whether the model is plain llama.cpp on its own mapping of the file, as it loads by default. */
bool fb_options_map_file(const struct forebay_model_options *options);

#endif
