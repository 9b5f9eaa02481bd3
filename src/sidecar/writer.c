#include "sidecar/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/output.h"

/* Written before checksums follow: what a kill costs at most, and what the page cache holds. */
uint64_t st_sidecar_checkpoint_bytes = 128 * ST_MIB;
#define START_BYTES (8 * ST_MIB)
/* Space that is not taken from others. */
#define SPARE_BYTES (64 * ST_MIB)

struct st_sidecar_writer {
    const struct st_sidecar_layout *layout;
    struct st_output *file;
    char *path;
    struct st_sidecar_head head;
    char *index;
    unsigned char *sums;   /* as in the file */
    uint64_t next;         /* unit to write */
    uint64_t saved;        /* units whose checksums are in the file */
    uint64_t begin, begun; /* bytes of records since the last checkpoint: [begin, begin + begun) */
    uint64_t started;      /* of these, on their way to the disk */
};

bool st_sidecar_partial_path(const char *path, char *partial, size_t cap)
{
    int n = snprintf(partial, cap, "%s.partial", path);
    return n > 0 && (size_t)n < cap;
}

static void make_head(
    const struct st_sidecar_layout *layout, const char *index, struct st_sidecar_head *head)
{
    uint64_t length = strlen(index);
    *head = (struct st_sidecar_head){
        .index_bytes = length,
        .sums_offset = st_round_up(ST_SIDECAR_HEAD_BYTES + length, ST_SIDECAR_ALIGN),
        .n_sums = layout->n_units,
        .index_sum = st_sidecar_sum(index, length),
    };
    head->file_bytes = st_sidecar_data_offset(head) + layout->data_bytes;
}

uint64_t st_sidecar_writer_next(const struct st_sidecar_writer *w)
{
    return w->next;
}

/* --- Beginning ----------------------------------------------------------------------------- */

/* Whether the file begins with the head and the index that this writer would write, and is as long. The
 * last run may have been killed after it had marked the head as complete. */
static bool begun_before(struct st_sidecar_writer *w)
{
    unsigned char mine[ST_SIDECAR_HEAD_BYTES], there[ST_SIDECAR_HEAD_BYTES];
    struct st_sidecar_head head;
    const char *why;
    uint64_t length = w->head.index_bytes;
    if (st_output_size(w->file) != w->head.file_bytes ||
        st_output_read(w->file, there, sizeof there, 0, NULL) != STRATA_OK) {
        return false;
    }
    if (!st_sidecar_head_unpack(there, &head, &why)) {
        return false;
    }
    head.sums_sum = 0;
    st_sidecar_head_pack(&head, there);
    st_sidecar_head_pack(&w->head, mine);
    if (memcmp(mine, there, sizeof mine) != 0) {
        return false;
    }
    char *index = st_xmalloc(length);
    bool same = st_output_read(w->file, index, length, sizeof there, NULL) == STRATA_OK &&
                memcmp(index, w->index, length) == 0;
    free(index);
    return same;
}

/* Goes on behind the last unit with a checksum. */
static enum strata_status go_on(struct st_sidecar_writer *w, struct strata_error *err)
{
    enum strata_status status =
        st_output_read(w->file, w->sums, 8 * w->head.n_sums, w->head.sums_offset, err);
    while (status == STRATA_OK && w->next < w->head.n_sums &&
           st_sidecar_load64(w->sums + 8 * w->next) != 0) {
        w->next++;
    }
    w->saved = w->next;
    memset(w->sums + 8 * w->next, 0, 8 * (w->head.n_sums - w->next));
    return status;
}

/* Head and index are on the disk before any checksum. */
static enum strata_status start_anew(struct st_sidecar_writer *w, struct strata_error *err)
{
    unsigned char head[ST_SIDECAR_HEAD_BYTES];
    st_sidecar_head_pack(&w->head, head);
    enum strata_status status = st_output_resize(w->file, 0, err);
    if (status == STRATA_OK) {
        status = st_output_resize(w->file, w->head.file_bytes, err);
    }
    if (status == STRATA_OK) {
        status = st_output_write(w->file, w->index, w->head.index_bytes, sizeof head, err);
    }
    if (status == STRATA_OK) {
        status = st_output_write(w->file, head, sizeof head, 0, err);
    }
    return status == STRATA_OK ? st_output_sync(w->file, 0, w->head.sums_offset, err) : status;
}

static enum strata_status check_space(
    const struct st_sidecar_writer *w, const char *partial, struct strata_error *err)
{
    uint64_t there = st_path_disk_bytes(partial), room = st_disk_free(w->path);
    uint64_t needed = w->head.file_bytes - st_min(there, w->head.file_bytes) + SPARE_BYTES;
    if (room >= needed) {
        return STRATA_OK;
    }
    return st_fail(err, STRATA_E_NOFIT, "Free some space, or write to another disk with -o.",
        "%s will take %s more, its disk has %s", w->path, ST_SIZE(needed), ST_SIZE(room));
}

enum strata_status st_sidecar_writer_new(const char *path, const struct st_sidecar_user *user,
    const struct st_sidecar_layout *layout, struct st_sidecar_writer **out,
    struct strata_error *err)
{
    char partial[4096];
    if (!st_sidecar_partial_path(path, partial, sizeof partial)) {
        return st_fail(err, STRATA_E_USAGE, "", "the path is too long: %s", path);
    }
    struct st_sidecar_writer *w = st_xcalloc(1, sizeof *w);
    w->layout = layout;
    w->path = st_xstrdup(path);
    bool made = !st_path_exists(partial);
    enum strata_status status = st_sidecar_index_write(user, layout, &w->index, err);
    if (status == STRATA_OK) {
        make_head(layout, w->index, &w->head);
        w->sums = st_xcalloc(w->head.n_sums, 8);
        status = check_space(w, partial, err);
    }
    if (status == STRATA_OK) {
        status = st_output_open(partial, &w->file, err);
    }
    if (status == STRATA_OK) {
        status = !made && begun_before(w) ? go_on(w, err) : start_anew(w, err);
    }
    if (status != STRATA_OK) {
        st_sidecar_writer_free(w);
        return status;
    }
    *out = w;
    return STRATA_OK;
}

void st_sidecar_writer_free(struct st_sidecar_writer *w)
{
    if (w) {
        st_output_close(w->file);
        free(w->path);
        free(w->index);
        free(w->sums);
        free(w);
    }
}

/* --- Writing ------------------------------------------------------------------------------- */

/* The records are on the disk; then their checksums may follow. */
static enum strata_status checkpoint(struct st_sidecar_writer *w, struct strata_error *err)
{
    enum strata_status status = STRATA_OK;
    if (w->next > w->saved) {
        status = st_output_sync(w->file, w->begin, w->begun, err);
    }
    if (status == STRATA_OK && w->next > w->saved) {
        status = st_output_write(w->file, w->sums + 8 * w->saved, 8 * (w->next - w->saved),
            w->head.sums_offset + 8 * w->saved, err);
    }
    if (status == STRATA_OK) {
        w->saved = w->next;
        w->begun = w->started = 0;
    }
    return status;
}

enum strata_status st_sidecar_writer_put(
    struct st_sidecar_writer *w, const void *data, struct strata_error *err)
{
    ST_ASSERT(w->next < w->head.n_sums);
    const struct st_sidecar_unit *unit = &w->layout->units[w->next];
    const struct st_sidecar_weight *weight = &w->layout->weights[unit->weight];
    uint64_t at =
        st_sidecar_data_offset(&w->head) + weight->offset + (uint64_t)unit->unit * weight->step;
    enum strata_status status = st_output_write(w->file, data, weight->unit_bytes, at, err);
    if (status != STRATA_OK) {
        return status;
    }
    st_sidecar_store64(w->sums + 8 * w->next++, st_sidecar_sum(data, weight->unit_bytes));
    w->begin = w->begun == 0 ? at : w->begin;
    w->begun = at + weight->unit_bytes - w->begin;
    if (w->begun - w->started >= START_BYTES) {
        st_output_start(w->file, w->begin + w->started, w->begun - w->started);
        w->started = w->begun;
    }
    return w->begun >= st_sidecar_checkpoint_bytes ? checkpoint(w, err) : STRATA_OK;
}

enum strata_status st_sidecar_writer_finish(struct st_sidecar_writer *w, struct strata_error *err)
{
    unsigned char head[ST_SIDECAR_HEAD_BYTES];
    ST_ASSERT(w->next == w->head.n_sums);
    enum strata_status status = checkpoint(w, err);
    if (status == STRATA_OK) {
        status = st_output_sync(w->file, w->head.sums_offset, 8 * w->head.n_sums, err);
    }
    if (status == STRATA_OK) {
        w->head.sums_sum = st_sidecar_sum(w->sums, 8 * w->head.n_sums);
        st_sidecar_head_pack(&w->head, head);
        status = st_output_write(w->file, head, sizeof head, 0, err);
    }
    return status == STRATA_OK ? st_output_commit(w->file, w->path, err) : status;
}
