/* model.h - the inside of a loaded model: its preflight and what was loaded by it. */
#ifndef FB_ENGINE_MODEL_H
#define FB_ENGINE_MODEL_H

#include "engine/preflight.h"
#include "engine/tokenizer.h"
#include "forebay.h"
#include "llama.h"

struct fb_gpu_slots;

struct forebay_model {
    struct fb_preflight *preflight;
    struct fb_binding *binding;     /* NULL when llama.cpp holds all weights itself, as is `plan` */
    struct fb_gpu_slots *gpu_slots; /* NULL: no experts are in slots of a device */
    struct fb_plan *plan; /* made with the context in memory, where the preflight's estimates it */
    struct llama_model *llama;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
    struct fb_tokenizer *tokenizer; /* NULL without a vocabulary */
    ggml_threadpool_t pool;         /* of a plain model; others compute with the binding's */
    struct forebay_placement placement;
    double load_s;
    uint64_t load_read_bytes;
    struct fb_stream_stats loaded; /* statistics at the end of loading; 0 without a binding */
    bool in_session;
    bool broken;    /* llama.cpp left an evaluation by an exception: its state is unknown */
    bool cancelled; /* by the progress callback, while llama.cpp was loading */
};

/* The options with every default filled in. */
static inline const struct forebay_model_options *fb_model_options(const struct forebay_model *m)
{
    return &m->preflight->options;
}

/* E_LLAMA after llama.cpp left an evaluation by an exception. */
enum forebay_status fb_model_check_usable(
    const struct forebay_model *model, struct forebay_error *err);

/* E_USAGE for a token that is not in the vocabulary. */
enum forebay_status fb_model_check_token(
    const struct forebay_model *model, int32_t token, struct forebay_error *err);

#endif
