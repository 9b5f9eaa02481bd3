/*
 * ffns.h - the FFNs of a model without experts, placed apart from their layers: pure functions.
 *
 * A device too small for all layers has two choices (offload.h):
 *
 *      whole layers   the last ones as they are; all of the others is the CPU's
 *      FFNs apart     attention, norms and KV cache of all layers; of the FFNs, the last ones
 *
 * The rule: FFNs apart, if all that is not FFN fits and fills at least as much of the device's
 * memory with weights and KV cache as whole layers do. Every token needs every byte, so the fuller
 * device leaves less that the CPU reads, or streams, for each token. Most models have smaller FFNs
 * than layers, and fill a device better with them. If both fill as much, FFNs apart: attention,
 * which takes longer as the context grows, is the device's in all layers then, and prompts need
 * nothing but products of the CPU. Several devices count as one: they are filled one after another
 * in either case.
 */
#ifndef FB_PLAN_FFNS_H
#define FB_PLAN_FFNS_H

#include "model/catalog.h"

/* Whether the tensor belongs to the FFN of a layer: matrices, and their biases and scales. False in
 * models with experts, whose layers may have a dense FFN as well. */
bool fb_ffns_has(const struct fb_catalog *catalog, const struct fb_tensor *tensor);

/* The rule above. `whole_bytes`: weights and KV cache on the device with whole layers; `bytes`,
 * `n_layers`: the same and the layers on it with FFNs apart. */
bool fb_ffns_better_apart(
    const struct fb_catalog *catalog, uint64_t whole_bytes, uint64_t bytes, int n_layers);

/* A regular expression (ECMAScript) for the names of these tensors in layers [0, end), to be freed.
 * NULL: there are none. */
char *fb_ffns_pattern(const struct fb_catalog *catalog, int end);

#endif
