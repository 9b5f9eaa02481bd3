/*
 * look.h - what is known of a model before a byte of its weights is read: whether it fits, the plan,
 * how fast it will be.
 *
 * llama.cpp goes through loading without taking memory, so that its own accounting says what the
 * context and the intermediate results will take, and its questions to our device what we may claim.
 */
#ifndef ST_ENGINE_LOOK_H
#define ST_ENGINE_LOOK_H

#include "engine/engine.h"

/* Fills in the options' defaults, catalogue, needs, history, curves, profile, prediction; plan and
 * disk speed unless the model is to be plain llama.cpp's (plan NULL). The binding is
 * one for measuring: st_look_forget frees it and the plan when the model is to be loaded. */
enum strata_status st_look(struct strata_model *model, const char *path, struct strata_error *err);
void st_look_forget(struct strata_model *model);

/* Only the catalogue and the weights that would be claimed, without any device: the binding's. */
enum strata_status st_look_weights(
    struct strata_model *model, const char *path, struct strata_error *err);

/* Makes the model's binding anew. */
void st_look_bind(struct strata_model *model, bool measuring);

/* Fills in the placement, of a model that was looked at or loaded. */
void st_look_placement(struct strata_model *model);

/* Plain llama.cpp on its mapping of the file, as it loads by default. */
bool st_look_maps(const struct strata_model *model);

/* How llama.cpp is asked for the model and its context, for looking and for loading. */
struct llama_model_params st_model_params(struct strata_model *model);
struct llama_context_params st_context_params(const struct strata_model *model);

/* `pending_bytes`: what llama.cpp will take and has not yet. */
struct st_budget st_budget_of(const struct strata_model *model, uint64_t pending_bytes);
/* The same, of a model that was looked at: all it will take. */
uint64_t st_pending_bytes(const struct strata_model *model);
/* Of a model that was loaded: what its resident set will grow by when it computes. */
uint64_t st_later_bytes(const struct strata_model *model);
/* Weights that llama.cpp keeps itself. */
uint64_t st_unclaimed_bytes(const struct strata_model *model, const struct st_weights *weights);

#endif
