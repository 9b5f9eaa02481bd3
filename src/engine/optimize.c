/*
 * optimize.c - forebay_optimize: a model's weights brought into the form they are computed with and
 * written to its sidecar; and which sidecar a model is loaded with.
 *
 *      model --reads ahead--> unit as stored --threads--> as computed with --> writer (sidecar/writer.h)
 */
#include "engine/optimize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/preflight.h"
#include "os/memory.h"
#include "os/output.h"
#include "os/save.h"
#include "sidecar/writer.h"

/* Units being read ahead of the one that is written. */
#define AHEAD_READS 32
#define AHEAD_BYTES (64 * FB_MIB)
#define BATCH_BYTES (16 * FB_MIB)

static struct fb_sidecar_user user_of(const struct forebay_model *m)
{
    return (struct fb_sidecar_user){
        m->catalog, m->options.repack, fb_cpu_name(), forebay_llama_version()};
}

/* --- Finding ------------------------------------------------------------------------------- */

/* One that is there and may not be used is reported, and is as good as none. */
static void try_sidecar(struct forebay_model *m, const char *path)
{
    struct forebay_error error;
    struct fb_sidecar_user user = user_of(m);
    if (!m->sidecar && fb_path_exists(path) &&
        fb_sidecar_open(path, &user, &m->sidecar, &error) != FOREBAY_OK) {
        fb_warn("the sidecar is not used. %s (%s)", error.message, error.hint);
    }
}

enum forebay_status fb_optimized_open(struct forebay_model *m, struct forebay_error *err)
{
    char path[4096];
    const char *wanted = m->options.sidecar;
    if (m->options.plain || strcmp(wanted, "none") == 0) {
        return FOREBAY_OK;
    }
    if (strcmp(wanted, "auto") != 0) {
        if (!fb_path_exists(wanted)) {
            return fb_fail(err, FOREBAY_E_IO, "Make it: forebay optimize MODEL -o FILE.",
                "there is no sidecar %s", wanted);
        }
        try_sidecar(m, wanted);
        return FOREBAY_OK;
    }
    for (int kept = 0; kept < 2; kept++) {
        if (fb_sidecar_path(m->catalog, kept, path, sizeof path)) {
            try_sidecar(m, path);
        }
    }
    return FOREBAY_OK;
}

/* --- Where it goes ------------------------------------------------------------------------- */

/* A file that has the sidecar's name, or that of its unfinished form, and is not a sidecar must not
 * be replaced or deleted. An empty one is what is left of a run that was killed at its start. */
static enum forebay_status check_output(const char *path, struct forebay_error *err)
{
    char partial[4096 + 16];
    enum forebay_status status = fb_sidecar_check_path(path, err);
    return status == FOREBAY_OK && fb_sidecar_partial_path(path, partial, sizeof partial)
               ? fb_sidecar_check_path(partial, err)
               : status;
}

static enum forebay_status choose_path(const struct forebay_model *m, const char *output,
    char *path, size_t cap, struct forebay_error *err)
{
    if (output) {
        if (!*output || !fb_path_resolve(output, path, cap)) {
            return fb_fail(err, FOREBAY_E_USAGE, "Give the name of a file with -o.",
                "%.100s is no name for a sidecar", output);
        }
        return check_output(path, err);
    }
    for (int kept = 0; kept < 2; kept++) {
        if (fb_sidecar_path(m->catalog, kept, path, cap) && fb_path_writable(path)) {
            return check_output(path, err);
        }
    }
    return fb_fail(err, FOREBAY_E_IO, "Say where: -o FILE.",
        "neither the model's directory nor the cache directory can be written to");
}

/* --- Reading, bringing into form, writing ---------------------------------------------------- */

struct reading {
    struct fb_io_request request;
    void *memory;
    uint64_t bytes;
};

struct copying {
    struct forebay_model *model;
    const struct fb_weights *weights;
    const struct fb_sidecar_layout *layout;
    struct fb_sidecar_writer *writer;
    int *weight_of; /* [layout->n_weights] index into weights */
    struct fb_io_engine *io;
    struct fb_repacker *shaper;
    char *form; /* room for a batch of units, or the largest */
    struct reading reads[AHEAD_READS];
    int first, n_reads;
    uint64_t next; /* unit to read */
    uint64_t prefetch_ahead_bytes;
    uint64_t done_bytes, total_bytes;
};

static const struct fb_weight *weight_of(const struct copying *c, uint64_t unit)
{
    return &c->weights->weights[c->weight_of[c->layout->units[unit].weight]];
}

static uint64_t envelope_most(const struct copying *c)
{
    uint64_t most = 0;
    for (int i = 0; i < c->layout->n_weights; i++) {
        most = fb_max(most, fb_weight_envelope(c->weights, c->weight_of[i]));
    }
    return most;
}

static uint64_t form_most(const struct copying *c)
{
    uint64_t most = BATCH_BYTES + AHEAD_READS * 64;
    for (int i = 0; i < c->layout->n_weights; i++) {
        most = fb_max(most, c->layout->weights[i].unit_bytes + 64);
    }
    return most;
}

/* Reads on as far as there is room; at least the unit that is written next. */
static enum forebay_status read_ahead(struct copying *c, struct forebay_error *err)
{
    while (c->next < c->layout->n_units && c->n_reads < AHEAD_READS) {
        const struct fb_sidecar_unit *unit = &c->layout->units[c->next];
        int weight = c->weight_of[unit->weight];
        uint64_t bytes = fb_weight_envelope(c->weights, weight);
        if (c->n_reads > 0 && c->prefetch_ahead_bytes + bytes > AHEAD_BYTES) {
            break;
        }
        struct reading *r = &c->reads[(c->first + c->n_reads) % AHEAD_READS];
        *r = (struct reading){.memory = fb_vm_reserve(bytes, false), .bytes = bytes};
        if (!r->memory) {
            return fb_fail(err, FOREBAY_E_NOMEM, "", "no memory to read %s", FB_SIZE(bytes));
        }
        r->request.file = fb_weight_file(c->weights, weight);
        r->request.offset = fb_weight_offset(c->weights, weight, unit->unit);
        r->request.length = c->weights->weights[weight].file_bytes;
        r->request.buffer = r->memory;
        c->n_reads++;
        c->prefetch_ahead_bytes += bytes;
        c->next++;
        fb_io_submit(c->io, &r->request);
    }
    return FOREBAY_OK;
}

static void release_first(struct copying *c)
{
    struct reading *r = &c->reads[c->first];
    fb_vm_release(r->memory, r->bytes);
    c->prefetch_ahead_bytes -= r->bytes;
    c->first = (c->first + 1) % AHEAD_READS;
    c->n_reads--;
}

/* The oldest reads that are brought into form together: waking threads up for each unit alone would
 * take longer than the work. */
static int batch_size(const struct copying *c)
{
    uint64_t first = fb_sidecar_writer_next(c->writer), bytes = 0;
    int n = 0;
    while (n < c->n_reads) {
        bytes += weight_of(c, first + (uint64_t)n)->unit_bytes;
        if (n > 0 && bytes > BATCH_BYTES) {
            break;
        }
        n++;
    }
    return n;
}

/* Waits for the n oldest reads. forms[i] is where the i-th unit is as it will be written. */
static enum forebay_status bring_into_form(
    struct copying *c, int n, const void **forms, struct forebay_error *err)
{
    uint64_t first = fb_sidecar_writer_next(c->writer);
    struct fb_unpack arrivals[AHEAD_READS];
    int n_unpacks = 0;
    char *form = c->form;
    for (int i = 0; i < n; i++) {
        struct reading *r = &c->reads[(c->first + i) % AHEAD_READS];
        enum forebay_status status = fb_io_wait(c->io, &r->request, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        forms[i] = (const char *)r->memory + fb_io_delta(r->request.offset);
        const struct fb_weight *w = weight_of(c, first + (uint64_t)i);
        if (w->transformed) {
            arrivals[n_unpacks++] =
                (struct fb_unpack){(int)(w - c->weights->weights), forms[i], form};
            forms[i] = form;
            form += fb_round_up(w->unit_bytes, 64);
        }
    }
    if (n_unpacks > 0) {
        fb_repacker_run(c->shaper, arrivals, n_unpacks);
    }
    return FOREBAY_OK;
}

static enum forebay_status copy_batch(struct copying *c, struct forebay_error *err)
{
    const void *forms[AHEAD_READS];
    enum forebay_status status = read_ahead(c, err);
    int n = batch_size(c);
    if (status == FOREBAY_OK) {
        status = bring_into_form(c, n, forms, err);
    }
    for (int i = 0; i < n && status == FOREBAY_OK; i++) {
        c->done_bytes += weight_of(c, fb_sidecar_writer_next(c->writer))->unit_bytes;
        status = fb_sidecar_writer_put(c->writer, forms[i], err);
        release_first(c);
    }
    return status;
}

static enum forebay_status copy_all(struct copying *c, struct forebay_error *err)
{
    const struct forebay_model_options *o = &c->model->options;
    enum forebay_status status = FOREBAY_OK;
    while (status == FOREBAY_OK && fb_sidecar_writer_next(c->writer) < c->layout->n_units) {
        if (o->progress && !o->progress("writing weights as they are computed with", c->done_bytes,
                               c->total_bytes, o->progress_user)) {
            return fb_fail(err, FOREBAY_E_CANCELLED,
                "The next run of forebay optimize goes on from here.", "it was stopped");
        }
        status = copy_batch(c, err);
    }
    /* What was read is of the model as it was opened, or is thrown away. */
    return status == FOREBAY_OK ? fb_catalog_check_files(c->model->catalog, err) : status;
}

static enum forebay_status check_memory(const struct copying *c, struct forebay_error *err)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t needed = fb_max(AHEAD_BYTES, envelope_most(c)) + form_most(c) + SLACK_BYTES;
    if (fb_memory_headroom(&state) < needed) {
        return fb_fail(err, FOREBAY_E_NOFIT, "Free some memory, or raise the container's limit.",
            "the largest weights need %s of memory, %s is free", FB_SIZE(needed),
            FB_SIZE(fb_memory_headroom(&state)));
    }
    return FOREBAY_OK;
}

static void stop_reading(struct copying *c)
{
    while (c->n_reads > 0) {
        struct reading *r = &c->reads[c->first];
        if (!fb_io_cancel(c->io, &r->request)) {
            fb_io_wait(c->io, &r->request, NULL);
        }
        release_first(c);
    }
}

static enum forebay_status copy(struct copying *c, struct forebay_error *err)
{
    struct fb_io_options io;
    fb_io_options_init(&io);
    io.method = c->model->options.io_method;
    enum forebay_status status = check_memory(c, err);
    if (status == FOREBAY_OK) {
        status = fb_io_open(&io, &c->io, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    c->shaper = fb_repacker_new(c->model->binding, c->model->options.threads);
    c->form = fb_vm_reserve(form_most(c), true);
    status = c->shaper && c->form ? copy_all(c, err)
                                  : fb_fail(err, FOREBAY_E_NOMEM, "", "no memory for weights");
    stop_reading(c);
    fb_repacker_free(c->shaper);
    if (c->form) {
        fb_vm_release(c->form, form_most(c));
    }
    fb_io_free(c->io);
    return status;
}

/* --- All of it ----------------------------------------------------------------------------- */

static enum forebay_status write_sidecar(struct forebay_model *m,
    const struct fb_sidecar_layout *layout, struct forebay_optimized *out,
    struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(m->binding);
    struct copying c = {.model = m, .weights = ws, .layout = layout};
    struct fb_sidecar_user user = user_of(m);
    enum forebay_status status = fb_sidecar_writer_new(out->path, &user, layout, &c.writer, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    c.weight_of = fb_xcalloc((size_t)layout->n_weights, sizeof *c.weight_of);
    for (int i = 0; i < layout->n_weights; i++) {
        while (ws->weights[c.weight_of[i]].tensor != layout->weights[i].tensor) {
            c.weight_of[i]++;
        }
    }
    c.next = fb_sidecar_writer_next(c.writer);
    for (uint64_t u = 0; u < layout->n_units; u++) {
        uint64_t bytes = layout->weights[layout->units[u].weight].unit_bytes;
        c.total_bytes += bytes;
        c.done_bytes += u < c.next ? bytes : 0;
    }
    out->resumed_from = c.done_bytes;
    status = copy(&c, err);
    if (status == FOREBAY_OK) {
        status = fb_sidecar_writer_finish(c.writer, err);
    }
    fb_sidecar_writer_free(c.writer);
    free(c.weight_of);
    return status;
}

/* Whether the sidecar has the weights of the layout in its forms. */
static bool has_all(const struct fb_sidecar *sidecar, const struct fb_sidecar_layout *layout)
{
    bool same = fb_sidecar_n_weights(sidecar) == layout->n_weights;
    for (int i = 0; i < layout->n_weights && same; i++) {
        const struct fb_sidecar_weight *want = &layout->weights[i];
        const struct fb_sidecar_weight *got = fb_sidecar_find(sidecar, want->tensor);
        same = got && got->unit_bytes == want->unit_bytes &&
               strcmp(got->form.layout, want->form.layout) == 0 &&
               got->form.probe == want->form.probe;
    }
    return same;
}

/* Reads every unit. *right: all are as they were written. */
static enum forebay_status check_units(const struct forebay_model *m, struct fb_sidecar *sidecar,
    const struct fb_sidecar_layout *layout, bool *right, struct forebay_error *err)
{
    const struct forebay_model_options *o = &m->options;
    struct fb_file *file = fb_sidecar_file(sidecar);
    enum forebay_status status = FOREBAY_OK;
    uint64_t most = 0;
    for (int i = 0; i < layout->n_weights; i++) {
        most = fb_max(most, layout->weights[i].unit_bytes);
    }
    void *unit = fb_vm_reserve(most, true);
    *right = unit != NULL;
    for (uint64_t u = 0; u < layout->n_units && *right; u++) {
        const struct fb_sidecar_unit *at = &layout->units[u];
        const struct fb_sidecar_weight *w =
            fb_sidecar_find(sidecar, layout->weights[at->weight].tensor);
        uint64_t offset = w->offset + (uint64_t)at->unit * w->step;
        *right = fb_file_read(file, unit, w->unit_bytes, offset, NULL) == FOREBAY_OK &&
                 fb_sidecar_right(sidecar, w, at->unit, unit);
        fb_file_drop_cache(file, offset, w->unit_bytes);
        if (o->progress &&
            !o->progress("checking what is there", offset, file->size, o->progress_user)) {
            status = fb_fail(err, FOREBAY_E_CANCELLED, "", "it was stopped");
            break;
        }
    }
    if (unit) {
        fb_vm_release(unit, most);
    }
    return status;
}

/* Whether the file is there, and all of it is what we would write. */
static enum forebay_status is_there(const struct forebay_model *m,
    const struct fb_sidecar_layout *layout, const char *path, bool *there,
    struct forebay_error *err)
{
    struct fb_sidecar_user user = user_of(m);
    struct fb_sidecar *sidecar;
    *there = false;
    if (!fb_path_exists(path) || fb_sidecar_open(path, &user, &sidecar, NULL) != FOREBAY_OK) {
        return FOREBAY_OK;
    }
    enum forebay_status status = FOREBAY_OK;
    if (has_all(sidecar, layout)) {
        status = check_units(m, sidecar, layout, there, err);
    }
    fb_sidecar_close(sidecar);
    return status;
}

static enum forebay_status optimize(struct forebay_model *m, const char *output,
    struct forebay_optimized *out, struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(m->binding);
    struct fb_sidecar_form *forms = fb_xcalloc((size_t)ws->n_weights, sizeof *forms);
    struct fb_sidecar_layout layout;
    for (int i = 0; i < ws->n_weights; i++) {
        fb_binding_form(m->binding, i, &forms[i]);
    }
    fb_sidecar_lay_out(ws, forms, &layout);
    enum forebay_status status = choose_path(m, output, out->path, sizeof out->path, err);
    if (status == FOREBAY_OK && layout.n_weights == 0) {
        status = fb_fail(err, FOREBAY_E_UNSUPPORTED, "Run it as it is.",
            "%s: its weights are computed with as they are stored, there is nothing to optimize",
            m->catalog->files[0]->path);
    }
    if (status == FOREBAY_OK) {
        status = is_there(m, &layout, out->path, &out->was_there, err);
    }
    if (status == FOREBAY_OK && !out->was_there) {
        status = write_sidecar(m, &layout, out, err);
    }
    if (status == FOREBAY_OK) {
        out->bytes = fb_path_disk_bytes(out->path);
    }
    fb_sidecar_layout_release(&layout);
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
    struct forebay_model *m;
    struct forebay_optimized result = {0};
    forebay_model_options_init(&o);
    o.repack = options->repack;
    o.threads = options->threads;
    o.io_method = options->io_method;
    o.progress = options->progress;
    o.progress_user = options->progress_user;
    enum forebay_status status = fb_model_new(&o, &m, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    status = fb_preflight_weights(m, path, err);
    if (status == FOREBAY_OK) {
        status = optimize(m, options->output, &result, err);
    }
    forebay_model_free(m);
    if (status == FOREBAY_OK) {
        *out = result;
    }
    return status;
}

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
        for (int kept = 0; kept < 2 && status == FOREBAY_OK; kept++) {
            if (fb_sidecar_path(catalog, kept, place, sizeof place)) {
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
