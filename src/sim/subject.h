/* subject.h - the model to simulate: a file, or a shape given in words, as a catalogue. */
#ifndef FB_SIM_SUBJECT_H
#define FB_SIM_SUBJECT_H

#include "model/weights.h"

struct fb_subject {
    struct fb_catalog *catalog;
    struct fb_weights *weights; /* at least one group */
    bool made_up;               /* from a shape: there is no file */
};

/* Opens a GGUF, or makes up a model of the given shape (syntax: fb_sim_run). With `experts_only`,
 * the weights are those of experts. E_USAGE for a bad shape, E_UNSUPPORTED for a model without
 * experts, and the errors of fb_catalog_open. */
enum forebay_status fb_subject_open(const char *model, bool repack, bool experts_only,
    struct fb_subject *out, struct forebay_error *err);
void fb_subject_release(struct fb_subject *subject);

/* Number of experts of the layer that has most. */
int fb_subject_experts(const struct fb_subject *subject);

#endif
