/*
 * records.c - comparing a sidecar's records with our forms, and repairing units.
 *
 * The probe of a form is made once per kind of units (buffer type, traits, type, shape), because
 * llama.cpp has to repack some rows for it.
 */
#include "backend/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "base/units.h"

/* Enough for every interleaving there is (4, 8, 16 or 32 rows). */
#define PROBE_ROWS 64

/* --- Forms --------------------------------------------------------------------------------- */

/* The checksum of fixed rows that llama.cpp has repacked into the layout. */
static uint64_t make_probe(const struct fb_layout *layout, const int64_t *ne)
{
    size_t raw_bytes = ggml_row_size(layout->type, ne[0]) * (size_t)ne[1];
    size_t form_bytes = fb_layout_bytes(layout, ne[0], ne[1]);
    unsigned char *raw = fb_xmalloc(raw_bytes), *form = fb_xcalloc(form_bytes, 1);
    fb_layout_trial_bytes(raw, raw_bytes);
    fb_layout_unpack(layout, ne[0], ne[1], raw, form);
    uint64_t sum = fb_hash64(form, form_bytes, 0);
    free(raw);
    free(form);
    return sum;
}

static uint64_t probe_of(struct fb_records *records, const struct fb_layout *layout)
{
    const int64_t ne[2] = {
        layout->unit_ne[0], (int64_t)fb_min((uint64_t)layout->unit_ne[1], PROBE_ROWS)};
    for (int i = 0; i < records->n_probes; i++) {
        const struct fb_layout_probe *p = &records->probes[i];
        if (p->buft == layout->buft && p->extra == layout->extra && p->type == layout->type &&
            p->ne[0] == ne[0] && p->ne[1] == ne[1]) {
            return p->sum;
        }
    }
    uint64_t sum = make_probe(layout, ne);
    if (records->n_probes < FB_MAX_PROBES) {
        records->probes[records->n_probes++] = (struct fb_layout_probe){
            layout->buft, layout->extra, layout->type, {ne[0], ne[1]}, sum};
    }
    return sum;
}

void fb_records_form(
    struct fb_records *records, const struct fb_form *form, struct fb_sidecar_form *out)
{
    *out = (struct fb_sidecar_form){0};
    if (form->layout.buft) {
        snprintf(out->layout, sizeof out->layout, "%s", ggml_backend_buft_name(form->layout.buft));
        out->probe = probe_of(records, &form->layout);
    }
}

void fb_records_place(struct fb_records *records, const struct fb_form *form, struct fb_claim *out)
{
    const struct fb_sidecar_weight *w =
        records->sidecar ? fb_sidecar_find(records->sidecar, out->tensor) : NULL;
    struct fb_sidecar_form ours;
    if (!w || w->unit_bytes != out->unit_bytes) {
        return;
    }
    fb_records_form(records, form, &ours);
    if (strcmp(ours.layout, w->form.layout) == 0 && ours.probe == w->form.probe) {
        out->file = fb_sidecar_file(records->sidecar);
        out->offset = w->offset;
        out->step = w->step;
    }
}

/* --- Checking and repairing ------------------------------------------------------------------ */

/* Makes a unit from the model's own bytes. Rare and slow; nothing is computed meanwhile. */
static enum forebay_status make_unit(const struct fb_catalog *catalog, const struct fb_weight *w,
    int unit, const struct fb_form *form, void *dest, struct forebay_error *err)
{
    const struct fb_tensor *t = &catalog->tensors[w->tensor];
    uint64_t bytes = w->group >= 0 ? t->expert_bytes : t->bytes;
    void *raw = malloc(bytes);
    if (!raw) {
        return fb_fail(err, FOREBAY_E_NOMEM, "Lower --mem.", "no memory to read %s", t->name);
    }
    struct fb_file *file = catalog->files[t->file];
    enum forebay_status status = fb_file_check(file, err);
    if (status == FOREBAY_OK) {
        status = fb_file_read(file, raw, bytes, t->offset + (uint64_t)unit * bytes, err);
    }
    if (status == FOREBAY_OK) {
        fb_form_unpack(&(struct fb_raw_unit){form, raw, dest, bytes});
    }
    free(raw);
    return status;
}

enum forebay_status fb_records_check(struct fb_records *records, const struct fb_weights *weights,
    int weight, int unit, const struct fb_form *form, void *data,
    const struct forebay_error *failed, struct forebay_error *err)
{
    const struct fb_weight *w = &weights->weights[weight];
    if (!w->file) {
        if (failed && err) {
            *err = *failed;
        }
        return failed ? failed->status : FOREBAY_OK;
    }
    const struct fb_sidecar_weight *record = fb_sidecar_find(records->sidecar, w->tensor);
    if (!failed && fb_sidecar_verify(records->sidecar, record, unit, data)) {
        return FOREBAY_OK;
    }
    fb_sidecar_warn_damaged(
        records->sidecar, record, unit, failed ? failed->message : "checksum mismatch");
    return make_unit(weights->catalog, w, unit, form, data, err);
}
