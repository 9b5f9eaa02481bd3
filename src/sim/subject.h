/* subject.h - what is simulated: a model file, or a shape given in words, as a catalogue. */
#ifndef ST_SIM_SUBJECT_H
#define ST_SIM_SUBJECT_H

#include "model/weights.h"

struct subject {
    struct st_catalog *catalog;
    struct st_weights *weights; /* at least one group */
    bool made_up;               /* the catalogue is ours: there is no file */
};

/* Opens a GGUF, or makes up what a shape says (st_sim_run says how one looks). E_USAGE for a bad
 * shape, E_UNSUPPORTED for a model without experts, and as st_catalog_open. */
enum strata_status st_subject_open(
    const char *model, bool repack, struct subject *out, struct strata_error *err);
void st_subject_release(struct subject *subject);

/* Most experts that a layer has. */
int st_subject_experts(const struct subject *subject);

#endif
