/*
 * trace.h - reads and writes routing traces: the experts that each token used in each layer.
 *
 * One JSON object per line. The first describes the model: n_layer (layers with experts), n_expert
 * and top_k. Each other line is one token: "phase" ("prefill" or "decode") and "layers", a list of
 * top_k expert numbers per layer. Prefill tokens may have empty lists: llama.cpp computes the last
 * layer only for tokens whose logits are wanted. Two keys are optional: "tok", the token, and
 * "pass", a number: consecutive prefill tokens with the same number were computed as one batch.
 * Other keys are ignored.
 */
#ifndef FB_MODEL_TRACE_H
#define FB_MODEL_TRACE_H

#include <stdio.h>

#include "forebay.h"

/* --- Reading ------------------------------------------------------------------------------ */

struct fb_trace {
    char model[128];
    int n_layer;
    int n_expert;
    int top_k;
    int n_tokens;
    int n_prefill;     /* of these, at any position; 0 unless fb_trace_part.prefill */
    uint16_t *experts; /* [token][layer][rank] */
    int *batch;        /* [token] batch it was computed in: from 0, never decreasing */
    bool *prefill;     /* [token] */
};

/* The part of a trace to read. */
struct fb_trace_part {
    int layers;   /* only the first; 0: all */
    int tokens;   /* only the first decode tokens; 0: all */
    bool prefill; /* prefill tokens, too */
};

/* Reads that part of the file, with fewer tokens if it has fewer. E_IO; E_FORMAT with the line
 * number, also when there is no decode token (with `prefill`: no token); E_USAGE when the trace has
 * fewer layers. */
enum forebay_status fb_trace_read(const char *path, const struct fb_trace_part *part,
    struct fb_trace *out, struct forebay_error *err);
void fb_trace_release(struct fb_trace *trace);

/* The top_k experts of a token in a layer; NULL when a prefill token has none there. */
const uint16_t *fb_trace_route(const struct fb_trace *trace, int token, int layer);

/* --- Writing ------------------------------------------------------------------------------ */

/* Each writes one line; check ferror(file) for errors. */
void fb_trace_write_header(FILE *file, const char *model, int n_layer, int n_expert, int top_k);

/* One token. `layers[l]` are the top_k experts of layer l; NULL for none. */
void fb_trace_write_token(FILE *file, int32_t token, bool prefill, uint64_t pass,
    const int32_t *const *layers, int n_layer, int top_k);

#endif
