/*
 * sidecar_make.c - reads units from the model, transforms them and writes them in the sidecar's
 * order.
 *
 *      model --reads in flight--> unit as stored --threads--> unit as computed with --> writer
 *             up to 32, in a ring                 in batches                       sidecar/writer.h
 */
#include "engine/sidecar_make.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/sidecar_choice.h"
#include "os/memory.h"

/* Reads in flight, and the memory they may take; a single unit may take more. */
#define READS_MAX       32
#define READS_MAX_BYTES (64 * FB_MIB)
/* Units transformed together: waking the threads for each unit would take longer than the work. */
#define BATCH_BYTES (16 * FB_MIB)
#define FORM_ALIGN  64

struct unit_read {
    struct fb_io_request request;
    void *memory;
    uint64_t bytes;
};

struct sidecar_copy {
    const struct fb_preflight *preflight;
    const struct fb_weights *weights;
    const struct fb_sidecar_contents *contents;
    struct fb_sidecar_writer *writer; /* fb_sidecar_writer_next: the unit to write */
    int *weight_of;                   /* [contents->n_weights] index into weights */
    struct fb_io_engine *io;
    struct fb_repacker *repacker;
    char *forms; /* room for a batch of transformed units */
    /* Reads of the units from the one to write up to next_read, in a ring. */
    struct unit_read reads[READS_MAX];
    int first_read, n_reads;
    uint64_t next_read; /* unit */
    uint64_t in_flight_bytes;
    uint64_t done_bytes, total_bytes; /* of transformed units */
};

static const struct fb_weight *weight_of(const struct sidecar_copy *c, uint64_t unit)
{
    return &c->weights->weights[c->weight_of[c->contents->units[unit].weight]];
}

static uint64_t largest_envelope(const struct sidecar_copy *c)
{
    uint64_t most = 0;
    for (int i = 0; i < c->contents->n_weights; i++) {
        most = fb_max(most, fb_weight_envelope(c->weights, c->weight_of[i]));
    }
    return most;
}

/* Size of `forms`: a batch, or the largest unit. */
static uint64_t forms_bytes(const struct sidecar_copy *c)
{
    uint64_t most = BATCH_BYTES + READS_MAX * FORM_ALIGN;
    for (int i = 0; i < c->contents->n_weights; i++) {
        most = fb_max(most, c->contents->weights[i].unit_bytes + FORM_ALIGN);
    }
    return most;
}

/* --- Reading ------------------------------------------------------------------------------- */

/* Starts as many reads as there is room for, and at least that of the unit to write. */
static enum forebay_status start_reads(struct sidecar_copy *c, struct forebay_error *err)
{
    while (c->next_read < c->contents->n_units && c->n_reads < READS_MAX) {
        const struct fb_sidecar_unit *unit = &c->contents->units[c->next_read];
        int weight = c->weight_of[unit->weight];
        uint64_t bytes = fb_weight_envelope(c->weights, weight);
        if (c->n_reads > 0 && c->in_flight_bytes + bytes > READS_MAX_BYTES) {
            break;
        }
        struct unit_read *r = &c->reads[(c->first_read + c->n_reads) % READS_MAX];
        *r = (struct unit_read){.memory = fb_vm_reserve(bytes, false), .bytes = bytes};
        if (!r->memory) {
            return fb_fail(err, FOREBAY_E_NOMEM, "", "no memory to read %s", FB_SIZE(bytes));
        }
        r->request.file = fb_weight_file(c->weights, weight);
        r->request.offset = fb_weight_offset(c->weights, weight, unit->unit);
        r->request.length = c->weights->weights[weight].file_bytes;
        r->request.buffer = r->memory;
        c->n_reads++;
        c->in_flight_bytes += bytes;
        c->next_read++;
        fb_io_submit(c->io, &r->request);
    }
    return FOREBAY_OK;
}

static void release_first(struct sidecar_copy *c)
{
    struct unit_read *r = &c->reads[c->first_read];
    fb_vm_release(r->memory, r->bytes);
    c->in_flight_bytes -= r->bytes;
    c->first_read = (c->first_read + 1) % READS_MAX;
    c->n_reads--;
}

static void stop_reads(struct sidecar_copy *c)
{
    while (c->n_reads > 0) {
        struct unit_read *r = &c->reads[c->first_read];
        if (!fb_io_cancel(c->io, &r->request)) {
            fb_io_wait(c->io, &r->request, NULL);
        }
        release_first(c);
    }
}

/* --- Transforming and writing -------------------------------------------------------------- */

/* How many of the oldest reads make a batch; at least one. */
static int batch_size(const struct sidecar_copy *c)
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

/* Waits for the n oldest reads and transforms their units. units[i]: the i-th as it is written. */
static enum forebay_status transform(
    struct sidecar_copy *c, int n, const void **units, struct forebay_error *err)
{
    uint64_t first = fb_sidecar_writer_next(c->writer);
    struct fb_unpack unpacks[READS_MAX];
    int n_unpacks = 0;
    char *form = c->forms;
    for (int i = 0; i < n; i++) {
        struct unit_read *r = &c->reads[(c->first_read + i) % READS_MAX];
        enum forebay_status status = fb_io_wait(c->io, &r->request, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        units[i] = (const char *)r->memory + fb_io_delta(r->request.offset);
        const struct fb_weight *w = weight_of(c, first + (uint64_t)i);
        if (w->transformed) {
            unpacks[n_unpacks++] =
                (struct fb_unpack){(int)(w - c->weights->weights), units[i], form};
            units[i] = form;
            form += fb_round_up(w->unit_bytes, FORM_ALIGN);
        }
    }
    if (n_unpacks > 0) {
        fb_repacker_run(c->repacker, unpacks, n_unpacks);
    }
    return FOREBAY_OK;
}

static enum forebay_status copy_batch(struct sidecar_copy *c, struct forebay_error *err)
{
    const void *units[READS_MAX];
    enum forebay_status status = start_reads(c, err);
    int n = batch_size(c);
    if (status == FOREBAY_OK) {
        status = transform(c, n, units, err);
    }
    for (int i = 0; i < n && status == FOREBAY_OK; i++) {
        c->done_bytes += weight_of(c, fb_sidecar_writer_next(c->writer))->unit_bytes;
        status = fb_sidecar_writer_put(c->writer, units[i], err);
        release_first(c);
    }
    return status;
}

static enum forebay_status copy_all(struct sidecar_copy *c, struct forebay_error *err)
{
    const struct forebay_model_options *o = &c->preflight->options;
    enum forebay_status status = FOREBAY_OK;
    while (status == FOREBAY_OK && fb_sidecar_writer_next(c->writer) < c->contents->n_units) {
        if (o->progress && !o->progress("writing weights as they are computed with", c->done_bytes,
                               c->total_bytes, o->progress_user)) {
            return fb_fail(err, FOREBAY_E_CANCELLED,
                "The next run of forebay optimize goes on from here.", "it was stopped");
        }
        status = copy_batch(c, err);
    }
    /* If the model has changed since it was opened, the sidecar must not be finished. */
    return status == FOREBAY_OK ? fb_catalog_check_files(c->preflight->catalog, err) : status;
}

static enum forebay_status check_memory(const struct sidecar_copy *c, struct forebay_error *err)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t needed =
        fb_max(READS_MAX_BYTES, largest_envelope(c)) + forms_bytes(c) + FB_PROCESS_SLACK_BYTES;
    if (fb_memory_headroom(&state) < needed) {
        return fb_fail(err, FOREBAY_E_NOFIT, "Free some memory, or raise the container's limit.",
            "the largest weights need %s of memory, %s is free", FB_SIZE(needed),
            FB_SIZE(fb_memory_headroom(&state)));
    }
    return FOREBAY_OK;
}

static enum forebay_status copy(struct sidecar_copy *c, struct forebay_error *err)
{
    struct fb_io_options io;
    fb_io_options_init(&io);
    io.method = c->preflight->options.io_method;
    enum forebay_status status = check_memory(c, err);
    if (status == FOREBAY_OK) {
        status = fb_io_open(&io, &c->io, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    c->repacker = fb_repacker_new(c->preflight->measuring, c->preflight->options.threads);
    c->forms = fb_vm_reserve(forms_bytes(c), true);
    status = c->repacker && c->forms ? copy_all(c, err)
                                     : fb_fail(err, FOREBAY_E_NOMEM, "", "no memory for weights");
    stop_reads(c);
    fb_repacker_free(c->repacker);
    if (c->forms) {
        fb_vm_release(c->forms, forms_bytes(c));
    }
    fb_io_free(c->io);
    return status;
}

/* --- All of it ----------------------------------------------------------------------------- */

enum forebay_status fb_sidecar_make(const struct fb_preflight *p,
    const struct fb_sidecar_contents *contents, const char *path, uint64_t *resumed_from,
    struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    struct sidecar_copy c = {.preflight = p, .weights = ws, .contents = contents};
    struct fb_sidecar_user user = fb_sidecar_user_here(p->catalog, p->options.repack);
    enum forebay_status status = fb_sidecar_writer_new(path, &user, contents, &c.writer, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    c.weight_of = fb_xcalloc((size_t)contents->n_weights, sizeof *c.weight_of);
    for (int i = 0; i < contents->n_weights; i++) {
        while (ws->weights[c.weight_of[i]].tensor != contents->weights[i].tensor) {
            c.weight_of[i]++;
        }
    }
    c.next_read = fb_sidecar_writer_next(c.writer);
    for (uint64_t u = 0; u < contents->n_units; u++) {
        uint64_t bytes = contents->weights[contents->units[u].weight].unit_bytes;
        c.total_bytes += bytes;
        c.done_bytes += u < c.next_read ? bytes : 0;
    }
    *resumed_from = c.done_bytes;
    status = copy(&c, err);
    if (status == FOREBAY_OK) {
        status = fb_sidecar_writer_finish(c.writer, err);
    }
    fb_sidecar_writer_free(c.writer);
    free(c.weight_of);
    return status;
}
