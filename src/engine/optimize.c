/*
 * optimize.c - forebay_optimize: makes a model's sidecar, unless a complete one exists, and removes
 * sidecars.
 *
 *      claimed weights       preflight.h
 *          |
 *          v
 *      contents of the file  sidecar/offsets.h
 *          |
 *          v
 *      where it belongs ---> complete already? every unit is read and checked
 *                                |  no
 *                                v
 *                            write it        sidecar_make.h
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/preflight.h"
#include "engine/sidecar_choice.h"
#include "engine/sidecar_make.h"
#include "os/cpu.h"
#include "os/memory.h"
#include "os/output.h"
#include "os/save.h"
#include "sidecar/sidecar.h"
#include "sidecar/writer.h"

/* --- Where --------------------------------------------------------------------------------- */

/* Other files with the sidecar's name, or with that of its partial file, must not be replaced or
 * deleted. */
static enum forebay_status check_output(const char *path, struct forebay_error *err)
{
    char partial[4096 + 16];
    enum forebay_status status = fb_sidecar_check_path(path, err);
    return status == FOREBAY_OK && fb_sidecar_partial_path(path, partial, sizeof partial)
               ? fb_sidecar_check_path(partial, err)
               : status;
}

/* `output`, or else beside the model, or else in the cache directory. */
static enum forebay_status choose_path(const struct fb_preflight *p, const char *output, char *path,
    size_t cap, struct forebay_error *err)
{
    if (output) {
        if (!*output || !fb_path_resolve(output, path, cap)) {
            return fb_fail(err, FOREBAY_E_USAGE, "Give the name of a file with -o.",
                "%.100s cannot be the name of a sidecar", output);
        }
        return check_output(path, err);
    }
    for (int cached = 0; cached < 2; cached++) {
        if (fb_sidecar_path(p->catalog, cached, path, cap) && fb_path_writable(path)) {
            return check_output(path, err);
        }
    }
    return fb_fail(err, FOREBAY_E_IO, "Name a file with -o.",
        "neither the model's directory nor the cache directory can be written to");
}

/* --- Checking an existing one -------------------------------------------------------------- */

/* Whether the sidecar has the weights of `contents`, in the same forms. */
static bool has_all(const struct fb_sidecar *sidecar, const struct fb_sidecar_contents *contents)
{
    bool same = fb_sidecar_n_weights(sidecar) == contents->n_weights;
    for (int i = 0; i < contents->n_weights && same; i++) {
        const struct fb_sidecar_weight *want = &contents->weights[i];
        const struct fb_sidecar_weight *got = fb_sidecar_find(sidecar, want->tensor);
        same = got && got->unit_bytes == want->unit_bytes &&
               strcmp(got->form.layout, want->form.layout) == 0 &&
               got->form.probe == want->form.probe;
    }
    return same;
}

/* Reads every unit. *intact: all match their checksums. */
static enum forebay_status check_units(const struct fb_preflight *p, struct fb_sidecar *sidecar,
    const struct fb_sidecar_contents *contents, bool *intact, struct forebay_error *err)
{
    const struct forebay_model_options *o = &p->options;
    struct fb_file *file = fb_sidecar_file(sidecar);
    enum forebay_status status = FOREBAY_OK;
    uint64_t most = 0;
    for (int i = 0; i < contents->n_weights; i++) {
        most = fb_max(most, contents->weights[i].unit_bytes);
    }
    void *unit = fb_vm_reserve(most, true);
    *intact = unit != NULL;
    for (uint64_t u = 0; u < contents->n_units && *intact; u++) {
        const struct fb_sidecar_unit *at = &contents->units[u];
        const struct fb_sidecar_weight *w =
            fb_sidecar_find(sidecar, contents->weights[at->weight].tensor);
        uint64_t offset = w->offset + (uint64_t)at->unit * w->step;
        *intact = fb_file_read(file, unit, w->unit_bytes, offset, NULL) == FOREBAY_OK &&
                  fb_sidecar_verify(sidecar, w, at->unit, unit);
        fb_file_drop_cache(file, offset, w->unit_bytes);
        if (o->progress &&
            !o->progress("checking the sidecar", offset, file->size, o->progress_user)) {
            status = fb_fail(err, FOREBAY_E_CANCELLED, "", "it was stopped");
            break;
        }
    }
    if (unit) {
        fb_vm_release(unit, most);
    }
    return status;
}

/* *complete: the file exists and is exactly what we would write. */
static enum forebay_status check_existing(const struct fb_preflight *p,
    const struct fb_sidecar_contents *contents, const char *path, bool *complete,
    struct forebay_error *err)
{
    struct fb_sidecar_user user = fb_sidecar_user_here(p->catalog, p->options.repack);
    struct fb_sidecar *sidecar;
    *complete = false;
    if (!fb_path_exists(path) || fb_sidecar_open(path, &user, &sidecar, NULL) != FOREBAY_OK) {
        return FOREBAY_OK;
    }
    enum forebay_status status = FOREBAY_OK;
    if (has_all(sidecar, contents)) {
        status = check_units(p, sidecar, contents, complete, err);
    }
    fb_sidecar_close(sidecar);
    return status;
}

/* --- Making -------------------------------------------------------------------------------- */

static enum forebay_status optimize(const struct fb_preflight *p, const char *output,
    struct forebay_optimized *out, struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    struct fb_sidecar_form *forms = fb_xcalloc((size_t)ws->n_weights, sizeof *forms);
    struct fb_sidecar_contents contents;
    for (int i = 0; i < ws->n_weights; i++) {
        fb_binding_form(p->measuring, i, &forms[i]);
    }
    fb_sidecar_lay_out(ws, forms, &contents);
    enum forebay_status status = choose_path(p, output, out->path, sizeof out->path, err);
    if (status == FOREBAY_OK && contents.n_weights == 0) {
        status = fb_fail(err, FOREBAY_E_UNSUPPORTED, "Run the model as it is.",
            "%s: nothing to optimize, all weights are computed with as they are stored",
            p->catalog->files[0]->path);
    }
    if (status == FOREBAY_OK) {
        status = check_existing(p, &contents, out->path, &out->was_there, err);
    }
    if (status == FOREBAY_OK && !out->was_there) {
        status = fb_sidecar_make(p, &contents, out->path, &out->resumed_from, err);
    }
    if (status == FOREBAY_OK) {
        out->bytes = fb_path_disk_bytes(out->path);
    }
    fb_sidecar_contents_release(&contents);
    free(forms);
    return status;
}

void forebay_optimize_options_init(struct forebay_optimize_options *options)
{
    *options = (struct forebay_optimize_options){.repack = true, .io_method = "auto"};
}

enum forebay_status forebay_optimize(const char *path,
    const struct forebay_optimize_options *options, struct forebay_optimized *out,
    struct forebay_error *err)
{
    struct forebay_model_options o;
    struct fb_preflight *p;
    struct forebay_optimized result = {0};
    forebay_model_options_init(&o);
    o.repack = options->repack;
    o.threads = options->threads;
    o.io_method = options->io_method;
    o.progress = options->progress;
    o.progress_user = options->progress_user;
    enum forebay_status status = fb_preflight_new_weights(path, &o, &p, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    status = optimize(p, options->output, &result, err);
    fb_preflight_free(p);
    if (status == FOREBAY_OK) {
        *out = result;
    }
    return status;
}

/* --- Removing ------------------------------------------------------------------------------ */

/* Removes the file and what an interrupted run left of it. *n counts them. */
static enum forebay_status remove_both(const char *path, int *n, struct forebay_error *err)
{
    char partial[4096 + 16];
    bool removed;
    enum forebay_status status = check_output(path, err);
    if (status == FOREBAY_OK) {
        status = fb_path_remove(path, &removed, err);
    }
    *n += status == FOREBAY_OK && removed;
    if (status == FOREBAY_OK && fb_sidecar_partial_path(path, partial, sizeof partial)) {
        status = fb_path_remove(partial, &removed, err);
        *n += status == FOREBAY_OK && removed;
    }
    return status;
}

enum forebay_status forebay_optimize_remove(
    const char *path, const char *output, int *n, struct forebay_error *err)
{
    struct fb_catalog *catalog;
    char place[4096];
    int count = 0;
    enum forebay_status status = FOREBAY_OK;
    if (output) {
        status = remove_both(output, &count, err);
    } else if ((status = fb_catalog_open(path, false, &catalog, err)) == FOREBAY_OK) {
        for (int cached = 0; cached < 2 && status == FOREBAY_OK; cached++) {
            if (fb_sidecar_path(catalog, cached, place, sizeof place)) {
                status = remove_both(place, &count, err);
            }
        }
        fb_catalog_free(catalog);
    }
    if (status == FOREBAY_OK) {
        *n = count;
    }
    return status;
}
