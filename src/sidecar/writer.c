/*
 * writer.c - see writer.h. The order of writes, each group on the disk before the next begins:
 *
 *      head, index | records | their checksums | records | ... | head (complete) | rename
 *
 * So a unit with a checksum is on the disk, and a complete head has everything before it on the
 * disk.
 */
#include "sidecar/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/output.h"
#include "sidecar/format.h"
#include "sidecar/sidecar.h"

/* Written between two checkpoints: limits the work lost by a kill, and use of the page cache. */
uint64_t fb_sidecar_checkpoint_bytes = 128 * FB_MIB;
#define START_BYTES (8 * FB_MIB)
/* Disk space left free. */
#define SPARE_BYTES (64 * FB_MIB)

struct fb_sidecar_writer {
    const struct fb_sidecar_contents *contents;
    struct fb_output *file;
    char *path;
    struct fb_sidecar_head head;
    char *index;
    unsigned char *sums;     /* as in the file */
    uint64_t next;           /* unit to write */
    uint64_t saved;          /* units whose checksums are in the file */
    uint64_t begin, written; /* bytes of records since the last checkpoint: begin, and how many */
    uint64_t started;        /* of these, writing to the disk has been started */
};

bool fb_sidecar_partial_path(const char *path, char *partial, size_t cap)
{
    int n = snprintf(partial, cap, "%s.partial", path);
    return n > 0 && (size_t)n < cap;
}

static void make_head(
    const struct fb_sidecar_contents *contents, const char *index, struct fb_sidecar_head *head)
{
    uint64_t length = strlen(index);
    *head = (struct fb_sidecar_head){
        .index_bytes = length,
        .sums_offset = fb_round_up(FB_SIDECAR_HEAD_BYTES + length, FB_BLOCK_BYTES),
        .n_sums = contents->n_units,
        .index_sum = fb_sidecar_sum(index, length),
    };
    head->file_bytes = fb_sidecar_data_offset(head) + contents->data_bytes;
}

uint64_t fb_sidecar_writer_next(const struct fb_sidecar_writer *w)
{
    return w->next;
}

/* --- Starting ----------------------------------------------------------------------------- */

/* Whether the file has the size, head and index that this writer would write. The last run may have
 * been killed after it had marked the head as complete. */
static bool can_continue(struct fb_sidecar_writer *w)
{
    unsigned char wanted[FB_SIDECAR_HEAD_BYTES], found[FB_SIDECAR_HEAD_BYTES];
    struct fb_sidecar_head head;
    const char *why;
    uint64_t length = w->head.index_bytes;
    if (fb_output_size(w->file) != w->head.file_bytes ||
        fb_output_read(w->file, found, sizeof found, 0, NULL) != FOREBAY_OK) {
        return false;
    }
    if (!fb_sidecar_head_unpack(found, &head, &why)) {
        return false;
    }
    head.sums_sum = 0;
    fb_sidecar_head_pack(&head, found);
    fb_sidecar_head_pack(&w->head, wanted);
    if (memcmp(wanted, found, sizeof wanted) != 0) {
        return false;
    }
    char *index = fb_xmalloc(length);
    bool same = fb_output_read(w->file, index, length, sizeof found, NULL) == FOREBAY_OK &&
                memcmp(index, w->index, length) == 0;
    free(index);
    return same;
}

/* Continues after the last unit with a checksum. */
static enum forebay_status continue_file(struct fb_sidecar_writer *w, struct forebay_error *err)
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

/* Empties the file and writes head and index, which are on the disk when this returns. The head is
 * written first: it tells another run that the file is a sidecar. */
static enum forebay_status start_file(struct fb_sidecar_writer *w, struct forebay_error *err)
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
    uint64_t present = fb_path_disk_bytes(partial), room = fb_disk_free(w->path);
    uint64_t needed = w->head.file_bytes - fb_min(present, w->head.file_bytes) + SPARE_BYTES;
    if (room >= needed) {
        return FOREBAY_OK;
    }
    return fb_fail(err, FOREBAY_E_NOFIT, "Free some space, or write to another disk with -o.",
        "%s needs %s more, but its disk has %s free", w->path, FB_SIZE(needed), FB_SIZE(room));
}

enum forebay_status fb_sidecar_check_path(const char *path, struct forebay_error *err)
{
    bool ours = !fb_path_exists(path) ||
                (!fb_path_is_no_file(path) && (fb_path_is_empty(path) || fb_sidecar_detect(path)));
    return ours ? FOREBAY_OK
                : fb_fail(err, FOREBAY_E_USAGE, "Give another name with -o.",
                      "%.200s exists and is not a sidecar", path);
}

enum forebay_status fb_sidecar_writer_new(const char *path, const struct fb_sidecar_user *user,
    const struct fb_sidecar_contents *contents, struct fb_sidecar_writer **out,
    struct forebay_error *err)
{
    char partial[4096];
    if (!fb_sidecar_partial_path(path, partial, sizeof partial)) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "the path is too long: %s", path);
    }
    struct fb_sidecar_writer *w = fb_xcalloc(1, sizeof *w);
    w->contents = contents;
    w->path = fb_xstrdup(path);
    bool existed = fb_path_exists(partial);
    enum forebay_status status = fb_sidecar_check_path(partial, err);
    if (status == FOREBAY_OK) {
        status = fb_sidecar_index_write(user, contents, &w->index, err);
    }
    if (status == FOREBAY_OK) {
        make_head(contents, w->index, &w->head);
        w->sums = fb_xcalloc(w->head.n_sums, 8);
        status = check_space(w, partial, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_output_open(partial, &w->file, err);
    }
    if (status == FOREBAY_OK) {
        status = existed && can_continue(w) ? continue_file(w, err) : start_file(w, err);
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

/* Syncs the records, then writes their checksums. */
static enum forebay_status checkpoint(struct fb_sidecar_writer *w, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    if (w->next > w->saved) {
        status = fb_output_sync(w->file, w->begin, w->written, err);
    }
    if (status == FOREBAY_OK && w->next > w->saved) {
        status = fb_output_write(w->file, w->sums + 8 * w->saved, 8 * (w->next - w->saved),
            w->head.sums_offset + 8 * w->saved, err);
    }
    if (status == FOREBAY_OK) {
        w->saved = w->next;
        w->written = w->started = 0;
    }
    return status;
}

enum forebay_status fb_sidecar_writer_put(
    struct fb_sidecar_writer *w, const void *data, struct forebay_error *err)
{
    FB_ASSERT(w->next < w->head.n_sums);
    const struct fb_sidecar_unit *unit = &w->contents->units[w->next];
    const struct fb_sidecar_weight *weight = &w->contents->weights[unit->weight];
    uint64_t at =
        fb_sidecar_data_offset(&w->head) + weight->offset + (uint64_t)unit->unit * weight->step;
    enum forebay_status status = fb_output_write(w->file, data, weight->unit_bytes, at, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    fb_sidecar_store64(w->sums + 8 * w->next++, fb_sidecar_sum(data, weight->unit_bytes));
    w->begin = w->written == 0 ? at : w->begin;
    w->written = at + weight->unit_bytes - w->begin;
    if (w->written - w->started >= START_BYTES) {
        fb_output_start(w->file, w->begin + w->started, w->written - w->started);
        w->started = w->written;
    }
    return w->written >= fb_sidecar_checkpoint_bytes ? checkpoint(w, err) : FOREBAY_OK;
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
