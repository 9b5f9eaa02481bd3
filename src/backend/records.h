/*
 * records.h - units from a sidecar: which records match our forms, and what replaces a damaged one.
 *
 * A sidecar's record may be used only if it has the layout that this process computes with. A name
 * does not say that (one layout's name may stand for interleavings of 4, 8 or 16 rows), so both
 * sides compare a *probe*: the checksum of 64 made-up rows in that layout.
 *
 * Belongs to one thread.
 */
#ifndef FB_BACKEND_RECORDS_H
#define FB_BACKEND_RECORDS_H

#include "backend/form.h"
#include "sidecar/sidecar.h"

#define FB_MAX_PROBES 64

/* A probe that was computed, and the kind of units that it is for. */
struct fb_layout_probe {
    ggml_backend_buffer_type_t buft;
    const void *extra;
    enum ggml_type type;
    int64_t ne[2];
    uint64_t sum;
};

/* Zeroed: no sidecar. */
struct fb_records {
    struct fb_sidecar *sidecar; /* NULL: everything is read from the model */
    struct fb_layout_probe probes[FB_MAX_PROBES];
    int n_probes;
};

/* How units in this form are described in a sidecar. */
void fb_records_form(
    struct fb_records *records, const struct fb_form *form, struct fb_sidecar_form *out);

/* Has the tensor of *out read from the sidecar, if the sidecar has it in this form. */
void fb_records_place(struct fb_records *records, const struct fb_form *form, struct fb_claim *out);

/* Checks a unit that was read from the sidecar to `data`; `failed` is the read's error, or NULL. If
 * the read failed or the checksum does not match, the unit is read from the model and unpacked to
 * `data`, which is slow and blocks. Units of weights that come from the model pass. */
enum forebay_status fb_records_check(struct fb_records *records, const struct fb_weights *weights,
    int weight, int unit, const struct fb_form *form, void *data,
    const struct forebay_error *failed, struct forebay_error *err);

#endif
