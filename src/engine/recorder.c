#include "engine/recorder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/trace.h"
#include "os/save.h"
#include "sidecar/sidecar.h"

/* Rows of a layer in the pass being computed. */
struct traced_layer {
    size_t n, cap;
    int32_t *experts; /* [n][top_k] */
};

struct fb_recorder {
    FILE *file;
    char *path;
    int n_layer, top_k;
    struct traced_layer *layers; /* [n_layer] */
    const int32_t **of_token;    /* [n_layer] */
    uint64_t n_passes;
    bool in_pass;               /* between begin and write; passes of forebay_decode are outside */
    struct forebay_error error; /* the first one; nothing is written after it */
};

void fb_recorder_note(struct fb_recorder *r, int group, const int *experts, int n)
{
    if (!r || !r->in_pass) {
        return;
    }
    struct traced_layer *rows = &r->layers[group];
    if (n != r->top_k) {
        if (r->error.status == FOREBAY_OK) {
            fb_fail(&r->error, FOREBAY_E_UNSUPPORTED, "",
                "%s: a layer used %d experts instead of %d, which a trace cannot hold", r->path, n,
                r->top_k);
        }
        return;
    }
    size_t k = (size_t)n;
    if (rows->n == rows->cap) {
        rows->cap = rows->cap ? 2 * rows->cap : 16;
        rows->experts = fb_xrealloc(rows->experts, rows->cap * k * sizeof *rows->experts);
    }
    memcpy(rows->experts + rows->n++ * k, experts, k * sizeof *experts);
}

enum forebay_status fb_recorder_new(const struct fb_weights *ws, const char *path,
    struct fb_recorder **out, struct forebay_error *err)
{
    const struct fb_catalog *catalog = ws->catalog;
    int n_expert = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        n_expert = ws->groups[g].n_expert > n_expert ? ws->groups[g].n_expert : n_expert;
    }
    if (fb_path_holds_weights(path)) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give the trace another name.",
            "%s holds the weights of a model and is not replaced by a trace", path);
    }
    FILE *file = fb_save_open(path);
    if (!file) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot write %s", path);
    }
    struct fb_recorder *r = fb_xcalloc(1, sizeof *r);
    r->file = file;
    r->path = fb_xstrdup(path);
    r->n_layer = ws->n_groups;
    r->top_k = catalog->n_expert_used;
    r->layers = fb_xcalloc((size_t)r->n_layer, sizeof *r->layers);
    r->of_token = fb_xcalloc((size_t)r->n_layer, sizeof *r->of_token);
    fb_trace_write_header(
        file, catalog->name[0] ? catalog->name : catalog->arch, r->n_layer, n_expert, r->top_k);
    *out = r;
    return FOREBAY_OK;
}

enum forebay_status fb_recorder_close(struct fb_recorder *r, struct forebay_error *err)
{
    if (!r) {
        return FOREBAY_OK;
    }
    bool failed = ferror(r->file) != 0;
    if ((fclose(r->file) || failed) && r->error.status == FOREBAY_OK) {
        fb_fail_errno(&r->error, FOREBAY_E_IO, errno, "", "cannot write %s", r->path);
    }
    enum forebay_status status = r->error.status;
    if (status != FOREBAY_OK && err) {
        *err = r->error;
    }
    for (int l = 0; l < r->n_layer; l++) {
        free(r->layers[l].experts);
    }
    free(r->layers);
    free(r->of_token);
    free(r->path);
    free(r);
    return status;
}

void fb_recorder_begin(struct fb_recorder *r)
{
    if (!r) {
        return;
    }
    r->in_pass = true;
    for (int l = 0; l < r->n_layer; l++) {
        r->layers[l].n = 0;
    }
}

/* The experts of token i of n in a layer; NULL when the layer did not compute its row. */
static const int32_t *route(const struct fb_recorder *r, int layer, size_t i, size_t n)
{
    const struct traced_layer *rows = &r->layers[layer];
    if (rows->n == n) {
        return rows->experts + i * (size_t)r->top_k;
    }
    return rows->n == 1 && i == n - 1 ? rows->experts : NULL;
}

void fb_recorder_write(struct fb_recorder *r, const int32_t *tokens, size_t n, bool prompt)
{
    if (!r) {
        return;
    }
    r->in_pass = false;
    if (r->error.status != FOREBAY_OK) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        for (int l = 0; l < r->n_layer; l++) {
            r->of_token[l] = route(r, l, i, n);
            if (!r->of_token[l] && (!prompt || r->layers[l].n > 1)) {
                fb_fail(&r->error, FOREBAY_E_UNSUPPORTED, "",
                    "%s: layer %d computed %zu rows for %zu tokens, which a trace cannot hold",
                    r->path, l, r->layers[l].n, n);
                return;
            }
        }
        fb_trace_write_token(
            r->file, tokens[i], prompt, r->n_passes, r->of_token, r->n_layer, r->top_k);
    }
    r->n_passes++;
    errno = 0;
    if (fflush(r->file)) {
        fb_fail_errno(
            &r->error, FOREBAY_E_IO, errno, "Is the disk full?", "cannot write %s", r->path);
    }
}
