/*
 * trace.h - a routing trace: which experts each token used in each layer.
 *
 * One JSON object per line. The first describes the model: n_layer (layers with experts), n_expert
 * and top_k; each other line is one token: "phase" ("prefill" or "decode") and "layers", a list
 * of top_k expert numbers per layer. Other keys are ignored.
 */
#ifndef ST_SYNTH_TRACE_H
#define ST_SYNTH_TRACE_H

#include "strata.h"

struct st_trace {
    char model[128];
    int n_layer;
    int n_expert;
    int top_k;
    int n_tokens;      /* decode tokens only */
    uint16_t *experts; /* [token][layer][rank] */
};

/* Reads the first `layers` layers of the first `tokens` decode tokens (0: all of them; fewer tokens
 * if the file has fewer). E_IO, E_FORMAT with the line number, E_USAGE for too many layers. */
enum strata_status st_trace_read(
    const char *path, int layers, int tokens, struct st_trace *out, struct strata_error *err);
void st_trace_release(struct st_trace *trace);

/* The top_k experts of a token in a layer. */
const uint16_t *st_trace_route(const struct st_trace *trace, int token, int layer);

#endif
