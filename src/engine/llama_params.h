/* llama_params.h - how llama.cpp is asked for a model and its context, both for measuring and for
 * loading. */
#ifndef FB_ENGINE_LLAMA_PARAMS_H
#define FB_ENGINE_LLAMA_PARAMS_H

#include "engine/devices.h"
#include "forebay.h"
#include "llama.h"

/* `options` with the defaults filled in. The result points into `devices`. No progress callback. */
struct llama_model_params fb_llama_model_params(
    const struct forebay_model_options *options, const struct fb_devices *devices);

/* `claimed`: our device claims weights of the model. */
struct llama_context_params fb_llama_context_params(
    const struct forebay_model_options *options, const struct fb_devices *devices, bool claimed);

#endif
