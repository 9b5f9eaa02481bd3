/*
 * gguf_writer.c - see gguf_writer.h.
 *
 *      a split set        [ header 0 | tensors 0..a ] [ header 1 | tensors a..b ] ...
 *
 * The first file has all key-values, every file the split.* ones. With holes, the file is created
 * at its full size and only the rows with data are written; without, it is written from start to
 * end.
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
#include "os/save.h"

#include "ggml.h"
#include "gguf.h"

#define CHUNK_BYTES (8 * FB_MIB)
#define PATH_CAP    4096

struct out_file {
    int first, end;        /* tensors */
    char path[PATH_CAP];   /* as given */
    char target[PATH_CAP]; /* the same with its links followed */
    char temporary[PATH_CAP + 16];
    const char *present; /* the target or the temporary file, if we have created it, or NULL */
    uint64_t bytes;
};

struct gguf_writer {
    const struct fb_synth_model *model;
    const struct fb_synth_source *source;
    const struct fb_synth_output *output;
    int n_parts;
    struct out_file *parts;
    uint8_t *chunk;
    uint64_t chunk_bytes;
    uint64_t done, total;
    /* the part being written */
    struct out_file *part;
    FILE *file;
    uint64_t at;  /* bytes written to it, holes included */
    bool skipped; /* the stream's position is before `at`: seek first */
};

/* --- Which tensor goes where -------------------------------------------------------------- */

static uint64_t padded_bytes(const struct fb_synth_tensor *t)
{
    return fb_round_up(fb_synth_tensor_bytes(t), GGUF_DEFAULT_ALIGNMENT);
}

/* A file holds tensors while they fit; a tensor that is too large gets a file of its own. */
static void divide(struct gguf_writer *w)
{
    uint64_t limit = w->output->split_max_bytes ? w->output->split_max_bytes : UINT64_MAX;
    w->parts = fb_xcalloc((size_t)w->model->n_tensors + 1, sizeof *w->parts);
    w->n_parts = 1;
    uint64_t used = 0;
    for (int i = 0; i < w->model->n_tensors; i++) {
        struct out_file *p = &w->parts[w->n_parts - 1];
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

/* An existing file may be replaced if it is a writable regular file and is not an input. */
static enum forebay_status check_path(
    const struct gguf_writer *w, struct out_file *p, struct forebay_error *err)
{
    for (int i = 0; i < w->output->n_inputs; i++) {
        if (fb_path_same_file(p->path, w->output->inputs[i])) {
            return fb_fail(err, FOREBAY_E_USAGE, "Give another name with -o.",
                "%.200s is an input of the new model and cannot be replaced by it", p->path);
        }
    }
    if (fb_path_is_no_file(p->path)) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give the name of a file.",
            "%.200s exists and is not a regular file", p->path);
    }
    int errnum = fb_path_check_output(p->path);
    if (errnum || !fb_path_resolve(p->path, p->target, sizeof p->target)) {
        return fb_fail_errno(err, FOREBAY_E_IO, errnum ? errnum : errno,
            "Check that the directory exists and is writable.", "cannot create %s", p->path);
    }
    return FOREBAY_OK;
}

static enum forebay_status name_parts(
    struct gguf_writer *w, const char *path, struct forebay_error *err)
{
    size_t stem = strlen(path);
    if (stem + 32 >= PATH_CAP) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "the output path is too long");
    }
    if (stem > 5 && strcmp(path + stem - 5, ".gguf") == 0) {
        stem -= 5;
    }
    for (int i = 0; i < w->n_parts; i++) {
        struct out_file *p = &w->parts[i];
        if (w->output->split_max_bytes) {
            snprintf(p->path, sizeof p->path, "%.*s-%05d-of-%05d.gguf", (int)stem, path, i + 1,
                w->n_parts);
        } else {
            snprintf(p->path, sizeof p->path, "%s", path);
        }
        enum forebay_status status = check_path(w, p, err);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    return FOREBAY_OK;
}

/* --- Writing ------------------------------------------------------------------------------ */

static enum forebay_status write_failed(const struct gguf_writer *w, struct forebay_error *err)
{
    int e = errno;
    return fb_fail_errno(err, FOREBAY_E_IO, e,
        e == ENOSPC ? "Free some space, or make a smaller model." : "", "cannot write %s after %s",
        w->part->path, FB_SIZE(w->at));
}

static enum forebay_status put(
    struct gguf_writer *w, const void *data, size_t length, struct forebay_error *err)
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

static void skip(struct gguf_writer *w, uint64_t length)
{
    w->at += length;
    w->skipped = w->skipped || length > 0;
}

static enum forebay_status report_progress(
    struct gguf_writer *w, uint64_t written, struct forebay_error *err)
{
    w->done += written;
    if (w->output->progress &&
        !w->output->progress("writing", w->done, w->total, w->output->progress_user)) {
        return fb_fail(err, FOREBAY_E_CANCELLED, "", "writing %s was cancelled", w->part->path);
    }
    return FOREBAY_OK;
}

/* The header of one file, with the offsets of its tensors. */
static void make_header(const struct gguf_writer *w, uint8_t **data, size_t *size)
{
    const struct fb_synth_model *m = w->model;
    const struct out_file *p = w->part;
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

static enum forebay_status write_tensor(struct gguf_writer *w, int index, struct forebay_error *err)
{
    static const uint8_t padding[GGUF_DEFAULT_ALIGNMENT];
    const struct fb_synth_tensor *t = &w->model->tensors[index];
    const struct fb_synth_source *source = w->source;
    uint64_t row_bytes = fb_synth_tensor_row_bytes(t);
    int64_t n_rows = fb_synth_tensor_rows(t);
    int64_t per_chunk = (int64_t)fb_max(w->chunk_bytes / row_bytes, 1);
    enum forebay_status status = FOREBAY_OK;
    for (int64_t row = 0, n = 0; row < n_rows && status == FOREBAY_OK; row += n) {
        int64_t hole = source->hole ? source->hole(source->user, index, row) : 0;
        if (hole > 0) {
            n = hole;
            skip(w, row_bytes * (uint64_t)n);
        } else {
            n = source->hole ? 1 : (int64_t)fb_min((uint64_t)per_chunk, (uint64_t)(n_rows - row));
            status = source->rows(source->user, index, row, n, w->chunk, err);
            if (status == FOREBAY_OK) {
                status = put(w, w->chunk, (size_t)n * row_bytes, err);
            }
        }
        if (status == FOREBAY_OK) {
            status = report_progress(w, row_bytes * (uint64_t)n, err);
        }
    }
    size_t pad = (size_t)(padded_bytes(t) - fb_synth_tensor_bytes(t));
    return status == FOREBAY_OK && pad > 0 ? put(w, padding, pad, err) : status;
}

static uint64_t part_bytes(const struct gguf_writer *w, size_t header)
{
    uint64_t sum = header;
    for (int i = w->part->first; i < w->part->end; i++) {
        sum += padded_bytes(&w->model->tensors[i]);
    }
    return sum;
}

/* Opens the temporary file; with holes it has its full size at once. */
static enum forebay_status open_part(struct gguf_writer *w, struct forebay_error *err)
{
    struct out_file *p = w->part;
    if (!fb_temporary_create(p->target, p->temporary, sizeof p->temporary)) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno,
            "Check that the directory exists and is writable.", "cannot create %s", p->path);
    }
    p->present = p->temporary;
    if (w->source->hole) {
        enum forebay_status status = fb_file_make_sparse(p->temporary, p->bytes, err);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    w->file = fopen(p->temporary, w->source->hole ? "r+b" : "wb");
    if (!w->file) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno,
            "Check that the directory exists and is writable.", "cannot create %s", p->temporary);
    }
    return FOREBAY_OK;
}

static enum forebay_status write_part(
    struct gguf_writer *w, struct out_file *p, struct forebay_error *err)
{
    uint8_t *header;
    size_t header_bytes;
    w->part = p;
    w->at = 0;
    w->skipped = false;
    make_header(w, &header, &header_bytes);
    p->bytes = part_bytes(w, header_bytes);
    enum forebay_status status = open_part(w, err);
    if (status == FOREBAY_OK) {
        status = put(w, header, header_bytes, err);
    }
    free(header);
    for (int i = p->first; i < p->end && status == FOREBAY_OK; i++) {
        status = write_tensor(w, i, err);
    }
    if (w->file && fclose(w->file) && status == FOREBAY_OK) {
        status = write_failed(w, err);
    }
    w->file = NULL;
    FB_ASSERT(status != FOREBAY_OK || w->at == p->bytes);
    return status;
}

static enum forebay_status rename_parts(struct gguf_writer *w, struct forebay_error *err)
{
    for (int i = 0; i < w->n_parts; i++) {
        struct out_file *p = &w->parts[i];
        if (rename(p->temporary, p->target)) {
            return fb_fail_errno(
                err, FOREBAY_E_IO, errno, "", "cannot rename %s to %s", p->temporary, p->target);
        }
        p->present = p->target;
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
    const struct gguf_writer *w, const char *path, struct forebay_error *err)
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
    struct gguf_writer w = {.model = model,
        .source = source,
        .output = output,
        .chunk_bytes = largest_row(model),
        .total = fb_synth_model_bytes(model)};
    divide(&w);
    enum forebay_status status = name_parts(&w, path, err);
    if (status == FOREBAY_OK) {
        status = check_space(&w, path, err);
    }
    w.chunk = status == FOREBAY_OK ? fb_xmalloc((size_t)w.chunk_bytes) : NULL;
    uint64_t bytes = 0;
    for (int i = 0; i < w.n_parts && status == FOREBAY_OK; i++) {
        status = write_part(&w, &w.parts[i], err);
        bytes += w.parts[i].bytes;
    }
    if (status == FOREBAY_OK) {
        status = rename_parts(&w, err);
    }
    for (int i = 0; i < w.n_parts && status != FOREBAY_OK; i++) {
        if (w.parts[i].present) {
            remove(w.parts[i].present);
        }
    }
    if (report && status == FOREBAY_OK) {
        snprintf(report->path, sizeof report->path, "%s", w.parts[0].path);
        report->file_bytes = bytes;
    }
    free(w.chunk);
    free(w.parts);
    return status;
}
