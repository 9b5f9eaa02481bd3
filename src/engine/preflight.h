/*
 * preflight.h - what is known of a model before a byte of its weights is read: whether it fits, the plan,
 * how fast it will be.
 *
 * llama.cpp goes through loading without taking memory, so that its own accounting says what the
 * context and the intermediate results will take, and its questions to our device what we may claim.
 */
#ifndef FB_ENGINE_PREFLIGHT_H
#define FB_ENGINE_PREFLIGHT_H

#include "engine/engine.h"

/* Fills in the options' defaults, catalogue, needs, history, curves, profile, estimate; plan and
 * disk speed unless the model is to be plain llama.cpp's (plan NULL). The binding is
 * one for measuring: fb_preflight_forget frees it and the plan when the model is to be loaded. */
enum forebay_status fb_preflight(
    struct forebay_model *model, const char *path, struct forebay_error *err);
void fb_preflight_forget(struct forebay_model *model);

/* Only the catalogue and the weights that would be claimed, without any device: the binding's. */
enum forebay_status fb_preflight_weights(
    struct forebay_model *model, const char *path, struct forebay_error *err);

/* Makes the model's binding anew. */
void fb_preflight_bind(struct forebay_model *model, bool measuring);

/* Fills in the placement, of a model that was looked at or loaded. */
void fb_preflight_placement(struct forebay_model *model);

/* Plain llama.cpp on its mapping of the file, as it loads by default. */
bool fb_preflight_maps(const struct forebay_model *model);

/* How llama.cpp is asked for the model and its context, for looking and for loading. */
struct llama_model_params fb_model_params(struct forebay_model *model);
struct llama_context_params fb_context_params(const struct forebay_model *model);

/* `pending_bytes`: what llama.cpp will take and has not yet. */
struct fb_budget fb_budget_of(const struct forebay_model *model, uint64_t pending_bytes);
/* The same, of a model that was looked at: all it will take. */
uint64_t fb_pending_bytes(const struct forebay_model *model);
/* Of a model that was loaded: what its resident set will grow by when it computes. */
uint64_t fb_later_bytes(const struct forebay_model *model);
/* Weights that llama.cpp keeps itself. */
uint64_t fb_unclaimed_bytes(const struct forebay_model *model, const struct fb_weights *weights);

#endif
