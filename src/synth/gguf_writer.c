/*
 * gguf_writer.c - see gguf_writer.h.
 *
 *      parts of a set        [ header 0 | tensors 0..a ] [ header 1 | tensors a..b ] ...
 *
 * The first part carries all key-values, every part the split.* ones.
 */
#include "synth/gguf_writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/file.h"
#include "os/output.h"

#include "ggml.h"
#include "gguf.h"

#define CHUNK_BYTES (8 * FB_MIB)
#define PATH_CAP    4096

struct part {
    int first, end; /* tensors */
    char path[PATH_CAP];
    char temporary[PATH_CAP + 8];
    const char *present; /* which of the two exists and is ours, or NULL */
    uint64_t bytes;
};

struct writer {
    const struct fb_synth_model *model;
    const struct fb_synth_source *source;
    const struct fb_synth_output *output;
    int n_parts;
    struct part *parts;
    uint8_t *chunk;
    uint64_t chunk_bytes;
    uint64_t done, total;
    /* the part being written */
    struct part *part;
    FILE *file;
    uint64_t at;  /* bytes written to it, holes included */
    bool skipped; /* the file's position is behind `at` */
};

/* --- Which tensor goes where -------------------------------------------------------------- */

static uint64_t padded_bytes(const struct fb_synth_tensor *t)
{
    return fb_round_up(fb_synth_tensor_bytes(t), GGUF_DEFAULT_ALIGNMENT);
}

/* A part takes tensors while they fit; a tensor that is too large gets a part of its own. */
static void divide(struct writer *w)
{
    uint64_t limit = w->output->split_max_bytes ? w->output->split_max_bytes : UINT64_MAX;
    w->parts = fb_xcalloc((size_t)w->model->n_tensors + 1, sizeof *w->parts);
    w->n_parts = 1;
    uint64_t used = 0;
    for (int i = 0; i < w->model->n_tensors; i++) {
        struct part *p = &w->parts[w->n_parts - 1];
        uint64_t bytes = padded_bytes(&w->model->tensors[i]);
        if (p->end > p->first && bytes > limit - fb_min(used, limit)) {
            p = &w->parts[w->n_parts++];
            p->first = p->end = i;
            used = 0;
        }
        p->end = i + 1;
        used += bytes;
    }
}

static enum forebay_status name_parts(struct writer *w, const char *path, struct forebay_error *err)
{
    size_t stem = strlen(path);
    if (stem + 32 >= PATH_CAP) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "the output path is too long");
    }
    if (stem > 5 && strcmp(path + stem - 5, ".gguf") == 0) {
        stem -= 5;
    }
    for (int i = 0; i < w->n_parts; i++) {
        struct part *p = &w->parts[i];
        if (w->output->split_max_bytes) {
            snprintf(p->path, sizeof p->path, "%.*s-%05d-of-%05d.gguf", (int)stem, path, i + 1,
                w->n_parts);
        } else {
            snprintf(p->path, sizeof p->path, "%s", path);
        }
        if (fb_path_is_no_file(p->path)) {
            return fb_fail(err, FOREBAY_E_USAGE, "Give the name of a file.",
                "%.200s is there, and is no file", p->path);
        }
        snprintf(p->temporary, sizeof p->temporary, "%s.tmp", p->path);
    }
    return FOREBAY_OK;
}

/* --- Writing ------------------------------------------------------------------------------ */

static enum forebay_status write_failed(const struct writer *w, struct forebay_error *err)
{
    int e = errno;
    return fb_fail_errno(err, FOREBAY_E_IO, e,
        e == ENOSPC ? "Free some space, or make a smaller model." : "", "cannot write %s after %s",
        w->part->path, FB_SIZE(w->at));
}

static enum forebay_status put(
    struct writer *w, const void *data, size_t length, struct forebay_error *err)
{
    if (w->skipped && fseeko(w->file, (off_t)w->at, SEEK_SET)) {
        return write_failed(w, err);
    }
    w->skipped = false;
    if (fwrite(data, 1, length, w->file) != length) {
        return write_failed(w, err);
    }
    w->at += length;
    return FOREBAY_OK;
}

static void skip(struct writer *w, uint64_t length)
{
    w->at += length;
    w->skipped = w->skipped || length > 0;
}

static enum forebay_status report_progress(
    struct writer *w, uint64_t written, struct forebay_error *err)
{
    w->done += written;
    if (w->output->progress &&
        !w->output->progress("writing", w->done, w->total, w->output->progress_user)) {
        return fb_fail(err, FOREBAY_E_CANCELLED, "", "making %s was stopped", w->part->path);
    }
    return FOREBAY_OK;
}

/* The header of one part, its tensors' offsets included. */
static void make_header(const struct writer *w, uint8_t **data, size_t *size)
{
    const struct fb_synth_model *m = w->model;
    const struct part *p = w->part;
    struct gguf_context *meta = gguf_init_empty();
    if (p == w->parts) {
        gguf_set_kv(meta, m->meta);
    }
    if (w->output->split_max_bytes) {
        gguf_set_val_u16(meta, "split.no", (uint16_t)(p - w->parts));
        gguf_set_val_u16(meta, "split.count", (uint16_t)w->n_parts);
        gguf_set_val_i32(meta, "split.tensors.count", m->n_tensors);
    }
    struct ggml_context *ggml = ggml_init((struct ggml_init_params){
        .mem_size = ggml_tensor_overhead() * (size_t)(p->end - p->first + 1), .no_alloc = true});
    for (int i = p->first; i < p->end; i++) {
        const struct fb_synth_tensor *t = &m->tensors[i];
        struct ggml_tensor *g = ggml_new_tensor(ggml, (enum ggml_type)t->type, t->n_dims, t->ne);
        ggml_set_name(g, t->name);
        gguf_add_tensor(meta, g);
    }
    *size = gguf_get_meta_size(meta);
    *data = fb_xmalloc(*size);
    gguf_get_meta_data(meta, *data);
    ggml_free(ggml);
    gguf_free(meta);
}

static enum forebay_status write_tensor(struct writer *w, int index, struct forebay_error *err)
{
    static const uint8_t padding[GGUF_DEFAULT_ALIGNMENT];
    const struct fb_synth_tensor *t = &w->model->tensors[index];
    const struct fb_synth_source *source = w->source;
    uint64_t row_bytes = fb_synth_tensor_row_bytes(t);
    int64_t n_rows = fb_synth_tensor_rows(t);
    int64_t per_chunk = (int64_t)fb_max(w->chunk_bytes / row_bytes, 1);
    enum forebay_status status = FOREBAY_OK;
    for (int64_t row = 0, n = 0; row < n_rows && !status; row += n) {
        int64_t hole = source->hole ? source->hole(source->user, index, row) : 0;
        if (hole > 0) {
            n = hole;
            skip(w, row_bytes * (uint64_t)n);
        } else {
            n = source->hole ? 1 : (int64_t)fb_min((uint64_t)per_chunk, (uint64_t)(n_rows - row));
            status = source->rows(source->user, index, row, n, w->chunk, err);
            status = status ? status : put(w, w->chunk, (size_t)n * row_bytes, err);
        }
        status = status ? status : report_progress(w, row_bytes * (uint64_t)n, err);
    }
    size_t pad = (size_t)(padded_bytes(t) - fb_synth_tensor_bytes(t));
    return status || pad == 0 ? status : put(w, padding, pad, err);
}

static uint64_t part_bytes(const struct writer *w, size_t header)
{
    uint64_t sum = header;
    for (int i = w->part->first; i < w->part->end; i++) {
        sum += padded_bytes(&w->model->tensors[i]);
    }
    return sum;
}

/* Opens the part's temporary file; with holes it has its full size at once. */
static enum forebay_status open_part(struct writer *w, struct forebay_error *err)
{
    struct part *p = w->part;
    if (w->source->hole) {
        enum forebay_status status = fb_file_make_sparse(p->temporary, p->bytes, err);
        if (status) {
            return status;
        }
        p->present = p->temporary;
    }
    w->file = fopen(p->temporary, w->source->hole ? "r+b" : "wb");
    if (!w->file) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, "Is the directory there and writable?",
            "cannot create %s", p->temporary);
    }
    p->present = p->temporary;
    return FOREBAY_OK;
}

static enum forebay_status write_part(struct writer *w, struct part *p, struct forebay_error *err)
{
    uint8_t *header;
    size_t header_bytes;
    w->part = p;
    w->at = 0;
    w->skipped = false;
    make_header(w, &header, &header_bytes);
    p->bytes = part_bytes(w, header_bytes);
    enum forebay_status status = open_part(w, err);
    if (!status) {
        status = put(w, header, header_bytes, err);
    }
    free(header);
    for (int i = p->first; i < p->end && !status; i++) {
        status = write_tensor(w, i, err);
    }
    if (w->file && fclose(w->file) && !status) {
        status = write_failed(w, err);
    }
    w->file = NULL;
    FB_ASSERT(status || w->at == p->bytes);
    return status;
}

static enum forebay_status rename_parts(struct writer *w, struct forebay_error *err)
{
    for (int i = 0; i < w->n_parts; i++) {
        struct part *p = &w->parts[i];
        if (rename(p->temporary, p->path)) {
            return fb_fail_errno(
                err, FOREBAY_E_IO, errno, "", "cannot rename %s to %s", p->temporary, p->path);
        }
        p->present = p->path;
    }
    return FOREBAY_OK;
}

static uint64_t largest_row(const struct fb_synth_model *model)
{
    uint64_t most = CHUNK_BYTES;
    for (int i = 0; i < model->n_tensors; i++) {
        most = fb_max(most, fb_synth_tensor_row_bytes(&model->tensors[i]));
    }
    return most;
}

/* Before anything is written: a disk that fills up is everybody's trouble. Holes take no space. */
static enum forebay_status check_space(
    const struct writer *w, const char *path, struct forebay_error *err)
{
    uint64_t free_bytes = fb_disk_free(path);
    if (w->source->hole || w->total <= free_bytes) {
        return FOREBAY_OK;
    }
    return fb_fail(err, FOREBAY_E_IO, "Free some space, write to another disk, or make it smaller.",
        "%s needs %s, and there is %s of space", path, FB_SIZE(w->total), FB_SIZE(free_bytes));
}

enum forebay_status fb_synth_write(const struct fb_synth_model *model,
    const struct fb_synth_source *source, const struct fb_synth_output *output, const char *path,
    struct fb_synth_report *report, struct forebay_error *err)
{
    struct writer w = {.model = model,
        .source = source,
        .output = output,
        .chunk_bytes = largest_row(model),
        .total = fb_synth_model_bytes(model)};
    divide(&w);
    enum forebay_status status = name_parts(&w, path, err);
    status = status ? status : check_space(&w, path, err);
    w.chunk = status ? NULL : fb_xmalloc((size_t)w.chunk_bytes);
    uint64_t bytes = 0;
    for (int i = 0; i < w.n_parts && !status; i++) {
        status = write_part(&w, &w.parts[i], err);
        bytes += w.parts[i].bytes;
    }
    status = status ? status : rename_parts(&w, err);
    for (int i = 0; i < w.n_parts && status; i++) {
        if (w.parts[i].present) {
            remove(w.parts[i].present);
        }
    }
    if (report && !status) {
        snprintf(report->path, sizeof report->path, "%s", w.parts[0].path);
        report->file_bytes = bytes;
    }
    free(w.chunk);
    free(w.parts);
    return status;
}
