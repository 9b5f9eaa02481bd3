/* llama_params.h - how llama.cpp is asked for a model and its context, both for measuring and for
 * loading. */
#ifndef FB_ENGINE_LLAMA_PARAMS_H
#define FB_ENGINE_LLAMA_PARAMS_H

#include "engine/devices.h"
#include "forebay.h"
#include "llama.h"
#include "model/catalog.h"

/* Models with two sets of rope factors (Phi-3) use the one for long texts when the context is
 * longer than they were first trained for. llama.cpp takes the cells of all sequences for the
 * context of one, so that the results would depend on the number of sequences: it is told
 * otherwise. */
struct fb_llama_overrides {
    struct llama_model_kv_override list[2]; /* one, and an end */
    uint32_t ctx_orig;                      /* what the model says; 0: nothing is overridden */
};
void fb_llama_overrides_init(struct fb_llama_overrides *overrides,
    const struct forebay_model_options *options, const struct fb_catalog *catalog);

/* `options` with the defaults filled in. The result points into `devices` and `overrides`. No
 * progress callback. */
struct llama_model_params fb_llama_model_params(const struct forebay_model_options *options,
    const struct fb_catalog *catalog, struct fb_devices *devices,
    const struct fb_llama_overrides *overrides, enum fb_load_purpose purpose);

/* `claimed`: our device claims weights of the model. */
struct llama_context_params fb_llama_context_params(const struct forebay_model_options *options,
    const struct fb_devices *devices, const struct fb_llama_overrides *overrides, bool claimed);

#endif
