/*
 * optimize.c - strata_optimize: a model's weights brought into the form they are computed with and
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
#include "engine/look.h"
#include "os/memory.h"
#include "os/output.h"
#include "sidecar/writer.h"

/* Units being read ahead of the one that is written. */
#define AHEAD_READS 32
#define AHEAD_BYTES (64 * ST_MIB)
#define BATCH_BYTES (16 * ST_MIB)

static struct st_sidecar_user user_of(const struct strata_model *m)
{
    return (struct st_sidecar_user){
        m->catalog, m->options.repack, st_cpu_name(), strata_llama_version()};
}

/* --- Finding ------------------------------------------------------------------------------- */

/* One that is there and may not be used is reported, and is as good as none. */
static void try_sidecar(struct strata_model *m, const char *path)
{
    struct strata_error error;
    struct st_sidecar_user user = user_of(m);
    if (!m->sidecar && st_path_exists(path) &&
        st_sidecar_open(path, &user, &m->sidecar, &error) != STRATA_OK) {
        st_warn("the sidecar is not used. %s (%s)", error.message, error.hint);
    }
}

enum strata_status st_optimized_open(struct strata_model *m, struct strata_error *err)
{
    char path[4096];
    const char *wanted = m->options.sidecar;
    if (m->options.plain || strcmp(wanted, "none") == 0) {
        return STRATA_OK;
    }
    if (strcmp(wanted, "auto") != 0) {
        if (!st_path_exists(wanted)) {
            return st_fail(err, STRATA_E_IO, "Make it: strata optimize MODEL -o FILE.",
                "there is no sidecar %s", wanted);
        }
        try_sidecar(m, wanted);
        return STRATA_OK;
    }
    for (int kept = 0; kept < 2; kept++) {
        if (st_sidecar_path(m->catalog, kept, path, sizeof path)) {
            try_sidecar(m, path);
        }
    }
    return STRATA_OK;
}

/* --- Where it goes ------------------------------------------------------------------------- */

/* What has the sidecar's name and is none is not ours to replace or delete. */
static enum strata_status check_output(const char *path, struct strata_error *err)
{
    if (st_path_exists(path) && (st_path_is_no_file(path) || !st_sidecar_is_one(path))) {
        return st_fail(err, STRATA_E_USAGE, "Give another name with -o.",
            "%.200s is there, and is no sidecar", path);
    }
    return STRATA_OK;
}

static enum strata_status choose_path(const struct strata_model *m, const char *output, char *path,
    size_t cap, struct strata_error *err)
{
    if (output) {
        int n = snprintf(path, cap, "%s", output);
        if (n <= 0 || (size_t)n >= cap) {
            return st_fail(err, STRATA_E_USAGE, "Give the name of a file with -o.",
                "%.100s is no name for a sidecar", output);
        }
        return check_output(path, err);
    }
    if (st_sidecar_path(m->catalog, false, path, cap) && st_path_writable(path)) {
        return STRATA_OK;
    }
    if (st_sidecar_path(m->catalog, true, path, cap) && st_path_writable(path)) {
        return STRATA_OK;
    }
    return st_fail(err, STRATA_E_IO, "Say where: -o FILE.",
        "neither the model's directory nor the cache directory can be written to");
}

/* --- Reading, bringing into form, writing ---------------------------------------------------- */

struct reading {
    struct st_io_request request;
    void *memory;
    uint64_t bytes;
};

struct copying {
    struct strata_model *model;
    const struct st_weights *weights;
    const struct st_sidecar_layout *layout;
    struct st_sidecar_writer *writer;
    int *weight_of; /* [layout->n_weights] index into weights */
    struct st_io_engine *io;
    struct st_shaper *shaper;
    char *form; /* room for a batch of units, or the largest */
    struct reading reads[AHEAD_READS];
    int first, n_reads;
    uint64_t next; /* unit to read */
    uint64_t ahead_bytes;
    uint64_t done_bytes, total_bytes;
};

static const struct st_weight *weight_of(const struct copying *c, uint64_t unit)
{
    return &c->weights->weights[c->weight_of[c->layout->units[unit].weight]];
}

static uint64_t envelope_most(const struct copying *c)
{
    uint64_t most = 0;
    for (int i = 0; i < c->layout->n_weights; i++) {
        most = st_max(most, st_weight_envelope(c->weights, c->weight_of[i]));
    }
    return most;
}

static uint64_t form_most(const struct copying *c)
{
    uint64_t most = BATCH_BYTES + AHEAD_READS * 64;
    for (int i = 0; i < c->layout->n_weights; i++) {
        most = st_max(most, c->layout->weights[i].unit_bytes + 64);
    }
    return most;
}

/* Reads on as far as there is room; at least the unit that is written next. */
static enum strata_status read_ahead(struct copying *c, struct strata_error *err)
{
    while (c->next < c->layout->n_units && c->n_reads < AHEAD_READS) {
        const struct st_sidecar_unit *unit = &c->layout->units[c->next];
        int weight = c->weight_of[unit->weight];
        uint64_t bytes = st_weight_envelope(c->weights, weight);
        if (c->n_reads > 0 && c->ahead_bytes + bytes > AHEAD_BYTES) {
            break;
        }
        struct reading *r = &c->reads[(c->first + c->n_reads) % AHEAD_READS];
        *r = (struct reading){.memory = st_vm_reserve(bytes, false), .bytes = bytes};
        if (!r->memory) {
            return st_fail(err, STRATA_E_NOMEM, "", "no memory to read %s", ST_SIZE(bytes));
        }
        r->request.file = st_weight_file(c->weights, weight);
        r->request.offset = st_weight_offset(c->weights, weight, unit->unit);
        r->request.length = c->weights->weights[weight].file_bytes;
        r->request.buffer = r->memory;
        c->n_reads++;
        c->ahead_bytes += bytes;
        c->next++;
        st_io_submit(c->io, &r->request);
    }
    return STRATA_OK;
}

static void release_first(struct copying *c)
{
    struct reading *r = &c->reads[c->first];
    st_vm_release(r->memory, r->bytes);
    c->ahead_bytes -= r->bytes;
    c->first = (c->first + 1) % AHEAD_READS;
    c->n_reads--;
}

/* The oldest reads that are brought into form together: waking threads up for each unit alone would
 * take longer than the work. */
static int batch_size(const struct copying *c)
{
    uint64_t first = st_sidecar_writer_next(c->writer), bytes = 0;
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
static enum strata_status bring_into_form(
    struct copying *c, int n, const void **forms, struct strata_error *err)
{
    uint64_t first = st_sidecar_writer_next(c->writer);
    struct st_arrival arrivals[AHEAD_READS];
    int n_arrivals = 0;
    char *form = c->form;
    for (int i = 0; i < n; i++) {
        struct reading *r = &c->reads[(c->first + i) % AHEAD_READS];
        enum strata_status status = st_io_wait(c->io, &r->request, err);
        if (status != STRATA_OK) {
            return status;
        }
        forms[i] = (const char *)r->memory + st_io_delta(r->request.offset);
        const struct st_weight *w = weight_of(c, first + (uint64_t)i);
        if (w->transformed) {
            arrivals[n_arrivals++] =
                (struct st_arrival){(int)(w - c->weights->weights), forms[i], form};
            forms[i] = form;
            form += st_round_up(w->unit_bytes, 64);
        }
    }
    if (n_arrivals > 0) {
        st_shaper_put(c->shaper, arrivals, n_arrivals);
    }
    return STRATA_OK;
}

static enum strata_status copy_batch(struct copying *c, struct strata_error *err)
{
    const void *forms[AHEAD_READS];
    enum strata_status status = read_ahead(c, err);
    int n = batch_size(c);
    if (status == STRATA_OK) {
        status = bring_into_form(c, n, forms, err);
    }
    for (int i = 0; i < n && status == STRATA_OK; i++) {
        c->done_bytes += weight_of(c, st_sidecar_writer_next(c->writer))->unit_bytes;
        status = st_sidecar_writer_put(c->writer, forms[i], err);
        release_first(c);
    }
    return status;
}

static enum strata_status copy_all(struct copying *c, struct strata_error *err)
{
    const struct strata_model_options *o = &c->model->options;
    enum strata_status status = STRATA_OK;
    while (status == STRATA_OK && st_sidecar_writer_next(c->writer) < c->layout->n_units) {
        if (o->progress && !o->progress("writing weights as they are computed with", c->done_bytes,
                               c->total_bytes, o->progress_user)) {
            return st_fail(err, STRATA_E_CANCELLED,
                "The next run of strata optimize goes on from here.", "it was stopped");
        }
        status = copy_batch(c, err);
    }
    /* What was read is of the model as it was opened, or is thrown away. */
    return status == STRATA_OK ? st_catalog_check_files(c->model->catalog, err) : status;
}

static enum strata_status check_memory(const struct copying *c, struct strata_error *err)
{
    struct st_memory_state state;
    st_memory_state(&state);
    uint64_t needed = st_max(AHEAD_BYTES, envelope_most(c)) + form_most(c) + SLACK_BYTES;
    if (st_memory_headroom(&state) < needed) {
        return st_fail(err, STRATA_E_NOFIT, "Free some memory, or raise the container's limit.",
            "the largest weights need %s of memory, %s is free", ST_SIZE(needed),
            ST_SIZE(st_memory_headroom(&state)));
    }
    return STRATA_OK;
}

static void stop_reading(struct copying *c)
{
    while (c->n_reads > 0) {
        struct reading *r = &c->reads[c->first];
        if (!st_io_cancel(c->io, &r->request)) {
            st_io_wait(c->io, &r->request, NULL);
        }
        release_first(c);
    }
}

static enum strata_status copy(struct copying *c, struct strata_error *err)
{
    struct st_io_options io;
    st_io_options_init(&io);
    io.method = c->model->options.io_method;
    enum strata_status status = check_memory(c, err);
    if (status == STRATA_OK) {
        status = st_io_open(&io, &c->io, err);
    }
    if (status != STRATA_OK) {
        return status;
    }
    c->shaper = st_shaper_new(c->model->binding, c->model->options.threads);
    c->form = st_vm_reserve(form_most(c), true);
    status = c->shaper && c->form ? copy_all(c, err)
                                  : st_fail(err, STRATA_E_NOMEM, "", "no memory for weights");
    stop_reading(c);
    st_shaper_free(c->shaper);
    if (c->form) {
        st_vm_release(c->form, form_most(c));
    }
    st_io_free(c->io);
    return status;
}

/* --- All of it ----------------------------------------------------------------------------- */

static enum strata_status write_sidecar(struct strata_model *m,
    const struct st_sidecar_layout *layout, struct strata_optimized *out, struct strata_error *err)
{
    const struct st_weights *ws = st_binding_weights(m->binding);
    struct copying c = {.model = m, .weights = ws, .layout = layout};
    struct st_sidecar_user user = user_of(m);
    enum strata_status status = st_sidecar_writer_new(out->path, &user, layout, &c.writer, err);
    if (status != STRATA_OK) {
        return status;
    }
    c.weight_of = st_xcalloc((size_t)layout->n_weights, sizeof *c.weight_of);
    for (int i = 0; i < layout->n_weights; i++) {
        while (ws->weights[c.weight_of[i]].tensor != layout->weights[i].tensor) {
            c.weight_of[i]++;
        }
    }
    c.next = st_sidecar_writer_next(c.writer);
    for (uint64_t u = 0; u < layout->n_units; u++) {
        uint64_t bytes = layout->weights[layout->units[u].weight].unit_bytes;
        c.total_bytes += bytes;
        c.done_bytes += u < c.next ? bytes : 0;
    }
    out->resumed_from = c.done_bytes;
    status = copy(&c, err);
    if (status == STRATA_OK) {
        status = st_sidecar_writer_finish(c.writer, err);
    }
    st_sidecar_writer_free(c.writer);
    free(c.weight_of);
    return status;
}

/* Whether the sidecar has the weights of the layout in its forms. */
static bool has_all(const struct st_sidecar *sidecar, const struct st_sidecar_layout *layout)
{
    bool same = st_sidecar_n_weights(sidecar) == layout->n_weights;
    for (int i = 0; i < layout->n_weights && same; i++) {
        const struct st_sidecar_weight *want = &layout->weights[i];
        const struct st_sidecar_weight *got = st_sidecar_find(sidecar, want->tensor);
        same = got && got->unit_bytes == want->unit_bytes &&
               strcmp(got->form.layout, want->form.layout) == 0 &&
               got->form.probe == want->form.probe;
    }
    return same;
}

/* Reads every unit. *right: all are as they were written. */
static enum strata_status check_units(const struct strata_model *m, struct st_sidecar *sidecar,
    const struct st_sidecar_layout *layout, bool *right, struct strata_error *err)
{
    const struct strata_model_options *o = &m->options;
    struct st_file *file = st_sidecar_file(sidecar);
    enum strata_status status = STRATA_OK;
    uint64_t most = 0;
    for (int i = 0; i < layout->n_weights; i++) {
        most = st_max(most, layout->weights[i].unit_bytes);
    }
    void *unit = st_vm_reserve(most, true);
    *right = unit != NULL;
    for (uint64_t u = 0; u < layout->n_units && *right; u++) {
        const struct st_sidecar_unit *at = &layout->units[u];
        const struct st_sidecar_weight *w =
            st_sidecar_find(sidecar, layout->weights[at->weight].tensor);
        uint64_t offset = w->offset + (uint64_t)at->unit * w->step;
        *right = st_file_read(file, unit, w->unit_bytes, offset, NULL) == STRATA_OK &&
                 st_sidecar_right(sidecar, w, at->unit, unit);
        st_file_drop_cache(file, offset, w->unit_bytes);
        if (o->progress &&
            !o->progress("checking what is there", offset, file->size, o->progress_user)) {
            status = st_fail(err, STRATA_E_CANCELLED, "", "it was stopped");
            break;
        }
    }
    if (unit) {
        st_vm_release(unit, most);
    }
    return status;
}

/* Whether the file is there, and all of it is what we would write. */
static enum strata_status is_there(const struct strata_model *m,
    const struct st_sidecar_layout *layout, const char *path, bool *there, struct strata_error *err)
{
    struct st_sidecar_user user = user_of(m);
    struct st_sidecar *sidecar;
    *there = false;
    if (!st_path_exists(path) || st_sidecar_open(path, &user, &sidecar, NULL) != STRATA_OK) {
        return STRATA_OK;
    }
    enum strata_status status = STRATA_OK;
    if (has_all(sidecar, layout)) {
        status = check_units(m, sidecar, layout, there, err);
    }
    st_sidecar_close(sidecar);
    return status;
}

static enum strata_status optimize(struct strata_model *m, const char *output,
    struct strata_optimized *out, struct strata_error *err)
{
    const struct st_weights *ws = st_binding_weights(m->binding);
    struct st_sidecar_form *forms = st_xcalloc((size_t)ws->n_weights, sizeof *forms);
    struct st_sidecar_layout layout;
    for (int i = 0; i < ws->n_weights; i++) {
        st_binding_form(m->binding, i, &forms[i]);
    }
    st_sidecar_lay_out(ws, forms, &layout);
    enum strata_status status = choose_path(m, output, out->path, sizeof out->path, err);
    if (status == STRATA_OK && layout.n_weights == 0) {
        status = st_fail(err, STRATA_E_UNSUPPORTED, "Run it as it is.",
            "%s: its weights are computed with as they are stored, there is nothing to optimize",
            m->catalog->files[0]->path);
    }
    if (status == STRATA_OK) {
        status = is_there(m, &layout, out->path, &out->was_there, err);
    }
    if (status == STRATA_OK && !out->was_there) {
        status = write_sidecar(m, &layout, out, err);
    }
    if (status == STRATA_OK) {
        out->bytes = st_path_disk_bytes(out->path);
    }
    st_sidecar_layout_release(&layout);
    free(forms);
    return status;
}

void strata_optimize_options_init(struct strata_optimize_options *options)
{
    *options = (struct strata_optimize_options){.repack = true, .io_method = "auto"};
}

enum strata_status strata_optimize(const char *path, const struct strata_optimize_options *options,
    struct strata_optimized *out, struct strata_error *err)
{
    struct strata_model_options o;
    struct strata_model *m;
    struct strata_optimized result = {0};
    strata_model_options_init(&o);
    o.repack = options->repack;
    o.threads = options->threads;
    o.io_method = options->io_method;
    o.progress = options->progress;
    o.progress_user = options->progress_user;
    enum strata_status status = st_model_new(&o, &m, err);
    if (status != STRATA_OK) {
        return status;
    }
    status = st_look_weights(m, path, err);
    if (status == STRATA_OK) {
        status = optimize(m, options->output, &result, err);
    }
    strata_model_free(m);
    if (status == STRATA_OK) {
        *out = result;
    }
    return status;
}

static enum strata_status remove_both(const char *path, int *n, struct strata_error *err)
{
    char partial[4096 + 16];
    bool removed;
    enum strata_status status = st_path_remove(path, &removed, err);
    *n += status == STRATA_OK && removed;
    if (status == STRATA_OK && st_sidecar_partial_path(path, partial, sizeof partial)) {
        status = st_path_remove(partial, &removed, err);
        *n += status == STRATA_OK && removed;
    }
    return status;
}

enum strata_status strata_optimize_remove(
    const char *path, const char *output, int *n, struct strata_error *err)
{
    struct st_catalog *catalog;
    char place[4096];
    int count = 0;
    enum strata_status status = STRATA_OK;
    if (output) {
        status = check_output(output, err);
        status = status == STRATA_OK ? remove_both(output, &count, err) : status;
    } else if ((status = st_catalog_open(path, false, &catalog, err)) == STRATA_OK) {
        for (int kept = 0; kept < 2 && status == STRATA_OK; kept++) {
            if (st_sidecar_path(catalog, kept, place, sizeof place)) {
                status = remove_both(place, &count, err);
            }
        }
        st_catalog_free(catalog);
    }
    if (status == STRATA_OK) {
        *n = count;
    }
    return status;
}
