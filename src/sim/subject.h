/* subject.h - what is simulated: a model file, or a shape given in words, as a catalogue. */
#ifndef FB_SIM_SUBJECT_H
#define FB_SIM_SUBJECT_H

#include "model/weights.h"

struct subject {
    struct fb_catalog *catalog;
    struct fb_weights *weights; /* at least one group */
    bool made_up;               /* the catalogue is ours: there is no file */
};

/* Opens a GGUF, or makes up what a shape says (fb_sim_run says how one looks). E_USAGE for a bad
 * shape, E_UNSUPPORTED for a model without experts, and as fb_catalog_open. */
enum forebay_status fb_subject_open(
    const char *model, bool repack, struct subject *out, struct forebay_error *err);
void fb_subject_release(struct subject *subject);

/* Most experts that a layer has. */
int fb_subject_experts(const struct subject *subject);

#endif
