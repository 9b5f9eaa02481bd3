/*
 * records.c - weights from a sidecar: which of its records are what we would keep, what becomes of one
 * that is damaged, and how they are made.
 */
#include "backend/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "base/units.h"

/* --- Forms --------------------------------------------------------------------------------- */

/* Enough for every interleaving there is (4, 8, 16 or 32 rows). */
#define PROBE_ROWS 64

void fb_made_up_bytes(unsigned char *out, size_t n)
{
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        out[i] = (unsigned char)fb_random_next(&state);
    }
}

/* What llama.cpp makes of made-up rows in the claim's layout. */
static uint64_t make_probe(const struct claim *claim, const int64_t *ne)
{
    size_t raw_bytes = ggml_row_size(claim->type, ne[0]) * (size_t)ne[1];
    size_t form_bytes = fb_layout_bytes(claim, ne[0], ne[1]);
    unsigned char *raw = fb_xmalloc(raw_bytes), *form = fb_xcalloc(form_bytes, 1);
    fb_made_up_bytes(raw, raw_bytes);
    fb_layout_unpack(claim, ne[0], ne[1], raw, form);
    uint64_t sum = fb_hash64(form, form_bytes, 0);
    free(raw);
    free(form);
    return sum;
}

/* The same, made once for all weights that are laid out alike. */
static uint64_t probe_of(struct fb_binding *b, const struct claim *claim)
{
    const int64_t ne[2] = {
        claim->unit_ne[0], (int64_t)fb_min((uint64_t)claim->unit_ne[1], PROBE_ROWS)};
    for (int i = 0; i < b->n_probes; i++) {
        const struct probe *p = &b->probes[i];
        if (p->layout == claim->layout && p->extra == claim->form_extra && p->type == claim->type &&
            p->ne[0] == ne[0] && p->ne[1] == ne[1]) {
            return p->sum;
        }
    }
    uint64_t sum = make_probe(claim, ne);
    if (b->n_probes < MAX_PROBES) {
        b->probes[b->n_probes++] =
            (struct probe){claim->layout, claim->form_extra, claim->type, {ne[0], ne[1]}, sum};
    }
    return sum;
}

static void form_of(struct fb_binding *b, const struct claim *claim, struct fb_sidecar_form *out)
{
    *out = (struct fb_sidecar_form){0};
    if (claim->layout) {
        snprintf(out->layout, sizeof out->layout, "%s", ggml_backend_buft_name(claim->layout));
        out->probe = probe_of(b, claim);
    }
}

void fb_binding_form(struct fb_binding *b, int weight, struct fb_sidecar_form *out)
{
    form_of(b, &b->claims[b->weights->weights[weight].tensor], out);
}

/* --- Using a sidecar ----------------------------------------------------------------------- */

void fb_binding_use_sidecar(struct fb_binding *b, struct fb_sidecar *sidecar)
{
    FB_ASSERT(!b->weights);
    b->sidecar = sidecar;
}

void fb_records_place(struct fb_binding *b, const struct claim *claim, struct fb_claim *out)
{
    const struct fb_sidecar_weight *w = fb_sidecar_find(b->sidecar, out->tensor);
    struct fb_sidecar_form form;
    if (!w || w->unit_bytes != out->unit_bytes) {
        return;
    }
    form_of(b, claim, &form);
    if (strcmp(form.layout, w->form.layout) == 0 && form.probe == w->form.probe) {
        out->file = fb_sidecar_file(b->sidecar);
        out->offset = w->offset;
        out->step = w->step;
    }
}

uint64_t fb_binding_sidecar_bytes(struct fb_binding *b)
{
    const struct fb_weights *ws = fb_binding_weights(b);
    uint64_t bytes = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        int n = w->group >= 0 ? ws->groups[w->group].n_expert : 1;
        bytes += w->file ? w->unit_bytes * (uint64_t)n : 0;
    }
    return bytes;
}

/* Makes a unit from the model's own bytes. This is rare, and slow: the computation stands still. */
static enum forebay_status make_unit(struct fb_binding *b, const struct fb_weight *w, int unit,
    void *dest, struct forebay_error *err)
{
    const struct fb_tensor *t = &b->catalog->tensors[w->tensor];
    uint64_t bytes = w->group >= 0 ? t->expert_bytes : t->bytes;
    void *raw = malloc(bytes);
    if (!raw) {
        return fb_fail(err, FOREBAY_E_NOMEM, "Lower --mem.", "no memory to read %s", t->name);
    }
    struct fb_file *file = b->catalog->files[t->file];
    enum forebay_status status = fb_file_check(file, err);
    if (status == FOREBAY_OK) {
        status = fb_file_read(file, raw, bytes, t->offset + (uint64_t)unit * bytes, err);
    }
    if (status == FOREBAY_OK) {
        struct unit u = {&b->claims[w->tensor], raw, dest, bytes};
        fb_unit_unpack(&u);
    }
    free(raw);
    return status;
}

enum forebay_status fb_records_check(void *user, int weight, int unit, void *data,
    const struct forebay_error *failed, struct forebay_error *err)
{
    struct fb_binding *b = user;
    const struct fb_weight *w = &b->weights->weights[weight];
    if (!w->file) {
        if (failed && err) {
            *err = *failed;
        }
        return failed ? failed->status : FOREBAY_OK;
    }
    const struct fb_sidecar_weight *record = fb_sidecar_find(b->sidecar, w->tensor);
    if (!failed && fb_sidecar_verify(b->sidecar, record, unit, data)) {
        return FOREBAY_OK;
    }
    fb_sidecar_warn_damaged(
        b->sidecar, record, unit, failed ? failed->message : "its checksum is another one");
    return make_unit(b, w, unit, data, err);
}

/* --- Making one ---------------------------------------------------------------------------- */

struct fb_repacker {
    struct fb_binding *binding;
    struct workers workers;
};

struct fb_repacker *fb_repacker_new(struct fb_binding *b, int n_threads)
{
    struct fb_repacker *s = fb_xcalloc(1, sizeof *s);
    s->binding = b;
    if (!fb_workers_init(&s->workers)) {
        free(s);
        return NULL;
    }
    fb_workers_set_threads(&s->workers, n_threads);
    fb_workers_sleep_when_idle(&s->workers);
    return s;
}

void fb_repacker_free(struct fb_repacker *s)
{
    if (s) {
        fb_workers_release(&s->workers);
        free(s);
    }
}

void fb_repacker_run(struct fb_repacker *s, const struct fb_unpack *arrivals, int n)
{
    fb_workers_unpack_weights(&s->workers, s->binding, arrivals, n);
}
