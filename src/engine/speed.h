/*
 * speed.h - how fast a model that is looked at will run: what is known of the machine, of the disk and
 * of earlier runs, and what follows from it.
 */
#ifndef ST_ENGINE_SPEED_H
#define ST_ENGINE_SPEED_H

#include "engine/engine.h"

/* Fills in history, curves and profile, which measures what is missing. The model has its binding. */
enum strata_status st_speed_gather(struct strata_model *model, struct strata_error *err);

/* Fills in what is known of the disk: as the options say, or by reading from the model's files for a
 * moment. */
void st_speed_probe_disk(struct strata_model *model);

/* Predicts for a plan and a disk (bytes per second) of a model that was looked at: a token after
 * `past` others. */
void st_speed_predict(const struct strata_model *model, const struct st_plan *plan,
    double disk_bytes_per_s, double past, struct st_speed *out);

/* Tokens before one that is generated, where nobody knows yet: a full batch. */
double st_speed_usual_past(const struct strata_model *model);

/* Seconds that attention to `past` tokens takes a token, alone or as one of a batch. */
double st_speed_attention_s(const struct strata_model *model, double past, bool batch);

#endif
