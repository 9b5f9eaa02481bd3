/*
 * speed.h - how fast a model that is looked at will run: what is known of the machine, of the disk and
 * of earlier runs, and what follows from it.
 */
#ifndef FB_ENGINE_SPEED_H
#define FB_ENGINE_SPEED_H

#include "engine/engine.h"

/* Fills in history, curves and profile, which measures what is missing. The model has its binding. */
enum forebay_status fb_speed_gather(struct forebay_model *model, struct forebay_error *err);

/* Fills in what is known of the disk: as the options say, or by reading from the model's files for a
 * moment. */
void fb_speed_probe_disk(struct forebay_model *model);

/* Predicts for a plan and a disk (bytes per second) of a model that was looked at: a token after
 * `past` others. */
void fb_speed_estimate(const struct forebay_model *model, const struct fb_plan *plan,
    double disk_bytes_per_s, double past, struct fb_speed *out);

/* Tokens before one that is generated, where nobody knows yet: a full batch. */
double fb_speed_usual_past(const struct forebay_model *model);

/* Seconds that attention to `past` tokens takes a token, alone or as one of a batch. */
double fb_speed_attention_s(const struct forebay_model *model, double past, bool batch);

#endif
