#include "sidecar/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/output.h"

/* Written before checksums follow: what a kill costs at most, and what the page cache holds. */
uint64_t fb_sidecar_checkpoint_bytes = 128 * FB_MIB;
#define START_BYTES (8 * FB_MIB)
/* Space that is not taken from others. */
#define SPARE_BYTES (64 * FB_MIB)

struct fb_sidecar_writer {
    const struct fb_sidecar_layout *layout;
    struct fb_output *file;
    char *path;
    struct fb_sidecar_head head;
    char *index;
    unsigned char *sums;   /* as in the file */
    uint64_t next;         /* unit to write */
    uint64_t saved;        /* units whose checksums are in the file */
    uint64_t begin, begun; /* bytes of records since the last checkpoint: [begin, begin + begun) */
    uint64_t started;      /* of these, on their way to the disk */
};

bool fb_sidecar_partial_path(const char *path, char *partial, size_t cap)
{
    int n = snprintf(partial, cap, "%s.partial", path);
    return n > 0 && (size_t)n < cap;
}

static void make_head(
    const struct fb_sidecar_layout *layout, const char *index, struct fb_sidecar_head *head)
{
    uint64_t length = strlen(index);
    *head = (struct fb_sidecar_head){
        .index_bytes = length,
        .sums_offset = fb_round_up(FB_SIDECAR_HEAD_BYTES + length, FB_SIDECAR_ALIGN),
        .n_sums = layout->n_units,
        .index_sum = fb_sidecar_sum(index, length),
    };
    head->file_bytes = fb_sidecar_data_offset(head) + layout->data_bytes;
}

uint64_t fb_sidecar_writer_next(const struct fb_sidecar_writer *w)
{
    return w->next;
}

/* --- Beginning ----------------------------------------------------------------------------- */

/* Whether the file begins with the head and the index that this writer would write, and is as long. The
 * last run may have been killed after it had marked the head as complete. */
static bool begun_before(struct fb_sidecar_writer *w)
{
    unsigned char mine[FB_SIDECAR_HEAD_BYTES], there[FB_SIDECAR_HEAD_BYTES];
    struct fb_sidecar_head head;
    const char *why;
    uint64_t length = w->head.index_bytes;
    if (fb_output_size(w->file) != w->head.file_bytes ||
        fb_output_read(w->file, there, sizeof there, 0, NULL) != FOREBAY_OK) {
        return false;
    }
    if (!fb_sidecar_head_unpack(there, &head, &why)) {
        return false;
    }
    head.sums_sum = 0;
    fb_sidecar_head_pack(&head, there);
    fb_sidecar_head_pack(&w->head, mine);
    if (memcmp(mine, there, sizeof mine) != 0) {
        return false;
    }
    char *index = fb_xmalloc(length);
    bool same = fb_output_read(w->file, index, length, sizeof there, NULL) == FOREBAY_OK &&
                memcmp(index, w->index, length) == 0;
    free(index);
    return same;
}

/* Goes on behind the last unit with a checksum. */
static enum forebay_status go_on(struct fb_sidecar_writer *w, struct forebay_error *err)
{
    enum forebay_status status =
        fb_output_read(w->file, w->sums, 8 * w->head.n_sums, w->head.sums_offset, err);
    while (status == FOREBAY_OK && w->next < w->head.n_sums &&
           fb_sidecar_load64(w->sums + 8 * w->next) != 0) {
        w->next++;
    }
    w->saved = w->next;
    memset(w->sums + 8 * w->next, 0, 8 * (w->head.n_sums - w->next));
    return status;
}

/* Head and index are on the disk before any checksum. The head is written first: by it another run
 * knows the file as ours. */
static enum forebay_status start_anew(struct fb_sidecar_writer *w, struct forebay_error *err)
{
    unsigned char head[FB_SIDECAR_HEAD_BYTES];
    fb_sidecar_head_pack(&w->head, head);
    enum forebay_status status = fb_output_resize(w->file, 0, err);
    if (status == FOREBAY_OK) {
        status = fb_output_write(w->file, head, sizeof head, 0, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_output_resize(w->file, w->head.file_bytes, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_output_write(w->file, w->index, w->head.index_bytes, sizeof head, err);
    }
    return status == FOREBAY_OK ? fb_output_sync(w->file, 0, w->head.sums_offset, err) : status;
}

static enum forebay_status check_space(
    const struct fb_sidecar_writer *w, const char *partial, struct forebay_error *err)
{
    uint64_t there = fb_path_disk_bytes(partial), room = fb_disk_free(w->path);
    uint64_t needed = w->head.file_bytes - fb_min(there, w->head.file_bytes) + SPARE_BYTES;
    if (room >= needed) {
        return FOREBAY_OK;
    }
    return fb_fail(err, FOREBAY_E_NOFIT, "Free some space, or write to another disk with -o.",
        "%s will take %s more, its disk has %s", w->path, FB_SIZE(needed), FB_SIZE(room));
}

enum forebay_status fb_sidecar_check_path(const char *path, struct forebay_error *err)
{
    bool ours = !fb_path_exists(path) ||
                (!fb_path_is_no_file(path) && (fb_path_is_empty(path) || fb_sidecar_is_one(path)));
    return ours ? FOREBAY_OK
                : fb_fail(err, FOREBAY_E_USAGE, "Give another name with -o.",
                      "%.200s is there, and is no sidecar", path);
}

enum forebay_status fb_sidecar_writer_new(const char *path, const struct fb_sidecar_user *user,
    const struct fb_sidecar_layout *layout, struct fb_sidecar_writer **out,
    struct forebay_error *err)
{
    char partial[4096];
    if (!fb_sidecar_partial_path(path, partial, sizeof partial)) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "the path is too long: %s", path);
    }
    struct fb_sidecar_writer *w = fb_xcalloc(1, sizeof *w);
    w->layout = layout;
    w->path = fb_xstrdup(path);
    bool made = !fb_path_exists(partial);
    enum forebay_status status = fb_sidecar_check_path(partial, err);
    if (status == FOREBAY_OK) {
        status = fb_sidecar_index_write(user, layout, &w->index, err);
    }
    if (status == FOREBAY_OK) {
        make_head(layout, w->index, &w->head);
        w->sums = fb_xcalloc(w->head.n_sums, 8);
        status = check_space(w, partial, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_output_open(partial, &w->file, err);
    }
    if (status == FOREBAY_OK) {
        status = !made && begun_before(w) ? go_on(w, err) : start_anew(w, err);
    }
    if (status != FOREBAY_OK) {
        fb_sidecar_writer_free(w);
        return status;
    }
    *out = w;
    return FOREBAY_OK;
}

void fb_sidecar_writer_free(struct fb_sidecar_writer *w)
{
    if (w) {
        fb_output_close(w->file);
        free(w->path);
        free(w->index);
        free(w->sums);
        free(w);
    }
}

/* --- Writing ------------------------------------------------------------------------------- */

/* The records are on the disk; then their checksums may follow. */
static enum forebay_status checkpoint(struct fb_sidecar_writer *w, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    if (w->next > w->saved) {
        status = fb_output_sync(w->file, w->begin, w->begun, err);
    }
    if (status == FOREBAY_OK && w->next > w->saved) {
        status = fb_output_write(w->file, w->sums + 8 * w->saved, 8 * (w->next - w->saved),
            w->head.sums_offset + 8 * w->saved, err);
    }
    if (status == FOREBAY_OK) {
        w->saved = w->next;
        w->begun = w->started = 0;
    }
    return status;
}

enum forebay_status fb_sidecar_writer_put(
    struct fb_sidecar_writer *w, const void *data, struct forebay_error *err)
{
    FB_ASSERT(w->next < w->head.n_sums);
    const struct fb_sidecar_unit *unit = &w->layout->units[w->next];
    const struct fb_sidecar_weight *weight = &w->layout->weights[unit->weight];
    uint64_t at =
        fb_sidecar_data_offset(&w->head) + weight->offset + (uint64_t)unit->unit * weight->step;
    enum forebay_status status = fb_output_write(w->file, data, weight->unit_bytes, at, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    fb_sidecar_store64(w->sums + 8 * w->next++, fb_sidecar_sum(data, weight->unit_bytes));
    w->begin = w->begun == 0 ? at : w->begin;
    w->begun = at + weight->unit_bytes - w->begin;
    if (w->begun - w->started >= START_BYTES) {
        fb_output_start(w->file, w->begin + w->started, w->begun - w->started);
        w->started = w->begun;
    }
    return w->begun >= fb_sidecar_checkpoint_bytes ? checkpoint(w, err) : FOREBAY_OK;
}

enum forebay_status fb_sidecar_writer_finish(struct fb_sidecar_writer *w, struct forebay_error *err)
{
    unsigned char head[FB_SIDECAR_HEAD_BYTES];
    FB_ASSERT(w->next == w->head.n_sums);
    enum forebay_status status = checkpoint(w, err);
    if (status == FOREBAY_OK) {
        status = fb_output_sync(w->file, w->head.sums_offset, 8 * w->head.n_sums, err);
    }
    if (status == FOREBAY_OK) {
        w->head.sums_sum = fb_sidecar_sum(w->sums, 8 * w->head.n_sums);
        fb_sidecar_head_pack(&w->head, head);
        status = fb_output_write(w->file, head, sizeof head, 0, err);
    }
    return status == FOREBAY_OK ? fb_output_commit(w->file, w->path, err) : status;
}
