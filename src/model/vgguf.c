/*
 * vgguf.c - the virtual file is a list of segments in ascending order; what lies between them is
 * padding and reads as zeros.
 *
 *      one file:    | header (memory) |pad| t0 | t1 (skipped) |pad| t2 | ...      offsets as in the file
 *      split set:   | merged header   |pad| t0 | t1           |pad| t2 | ...      offsets made here
 *
 * The header is held in memory: llama.cpp reads it a few bytes at a time.
 */
#include "model/vgguf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/cookie.h"

#include "ggml.h"
#include "gguf.h"

/* Large enough for the full speed of a disk; small enough that a load leaves little page cache
 * behind at any moment. */
#define PIECE (8 * ST_MIB)

enum segment_kind { HEADER, DATA, SKIPPED };

struct segment {
    uint64_t start; /* in the virtual file */
    uint64_t length;
    enum segment_kind kind;
    struct st_file *file;
    uint64_t offset; /* DATA: in `file` */
};

struct vgguf {
    char *header;
    struct segment *segments;
    int n_segments;
    int current; /* where the last read was: reads mostly go on from there */
    uint64_t size;
    uint64_t pos;
    struct st_vgguf_stats *stats;
    struct st_vgguf_stats own_stats;
    struct strata_error *io_error;
};

/* --- Reading ------------------------------------------------------------------------------ */

/* Index of the last segment that starts at or before `pos`. Segment 0 starts at 0. */
static int segment_at(const struct vgguf *v, uint64_t pos)
{
    int low = 0, high = v->n_segments;
    if (pos >= v->segments[v->current].start) {
        low = v->current;
        if (low + 1 >= v->n_segments || pos < v->segments[low + 1].start) {
            return low;
        }
    }
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        *(v->segments[middle].start <= pos ? &low : &high) = middle;
    }
    return low;
}

static bool read_data(struct vgguf *v, struct st_file *file, uint64_t offset, char *to, uint64_t n)
{
    struct strata_error unused;
    while (n > 0) {
        uint64_t piece = st_min(n, PIECE);
        if (st_file_read(file, to, piece, offset, v->io_error ? v->io_error : &unused)) {
            errno = EIO;
            return false;
        }
        st_file_drop_cache(file, offset, piece);
        v->stats->read_bytes += piece;
        offset += piece;
        to += piece;
        n -= piece;
    }
    return true;
}

/* Reads at pos, within one segment or gap. Returns the bytes passed, 0 on an error. */
static uint64_t read_some(struct vgguf *v, char *to, uint64_t length)
{
    v->current = segment_at(v, v->pos);
    const struct segment *s = &v->segments[v->current];
    uint64_t inside = v->pos - s->start;
    if (inside >= s->length) {
        bool last = v->current + 1 == v->n_segments;
        uint64_t n = st_min(length, (last ? v->size : s[1].start) - v->pos);
        memset(to, 0, n);
        return n;
    }
    uint64_t n = st_min(length, s->length - inside);
    switch (s->kind) {
    case HEADER:
        memcpy(to, v->header + inside, n);
        break;
    case SKIPPED:
        v->stats->skipped_bytes += n;
        break;
    case DATA:
        return read_data(v, s->file, s->offset + inside, to, n) ? n : 0;
    }
    return n;
}

static int64_t on_read(void *user, void *buffer, size_t length)
{
    struct vgguf *v = user;
    uint64_t want = v->pos < v->size ? st_min(length, v->size - v->pos) : 0;
    uint64_t done = 0;
    while (done < want) {
        uint64_t n = read_some(v, (char *)buffer + done, want - done);
        if (n == 0) {
            return -1;
        }
        done += n;
        v->pos += n;
    }
    return (int64_t)done;
}

static int64_t on_seek(void *user, int64_t offset, int whence)
{
    struct vgguf *v = user;
    int64_t base = whence == SEEK_SET ? 0 : (int64_t)(whence == SEEK_CUR ? v->pos : v->size);
    int64_t pos;
    if (__builtin_add_overflow(base, offset, &pos) || pos < 0) {
        errno = EINVAL;
        return -1;
    }
    v->pos = (uint64_t)pos;
    return pos;
}

static void vgguf_free(void *user)
{
    struct vgguf *v = user;
    free(v->header);
    free(v->segments);
    free(v);
}

static const struct st_cookie_calls calls = {on_read, on_seek, vgguf_free};

/* --- Making the segments ------------------------------------------------------------------ */

static bool hold_header(struct vgguf *v, uint64_t length)
{
    v->header = malloc(length);
    v->segments[0] = (struct segment){0, length, HEADER, NULL, 0};
    v->n_segments = 1;
    return v->header != NULL;
}

static void add_tensor(
    struct vgguf *v, const struct st_catalog *c, int i, uint64_t start, bool skip)
{
    const struct st_tensor *t = &c->tensors[i];
    if (t->bytes > 0) {
        v->segments[v->n_segments++] =
            (struct segment){start, t->bytes, skip ? SKIPPED : DATA, c->files[t->file], t->offset};
    }
}

/* One file: the same bytes at the same place. */
static enum strata_status map_single(struct vgguf *v, const struct st_catalog *c,
    st_vgguf_skip skip, void *user, struct strata_error *err)
{
    uint64_t length = gguf_get_data_offset(c->meta);
    if (!hold_header(v, length)) {
        return st_fail(
            err, STRATA_E_NOMEM, "", "no memory for the header of %s", c->files[0]->path);
    }
    v->size = c->files[0]->size;
    for (int i = 0; i < c->n_tensors; i++) {
        add_tensor(v, c, i, c->tensors[i].offset, skip && skip(user, i));
    }
    return st_file_read(c->files[0], v->header, length, 0, err);
}

/* The header llama-gguf-split would have read before it split the model. The alignment becomes the
 * default: gguf.h would write the key, but not align by it. */
static struct gguf_context *merge_headers(const struct st_catalog *c)
{
    static const char *const dropped[] = {
        "split.no", "split.count", "split.tensors.count", GGUF_KEY_GENERAL_ALIGNMENT};
    struct gguf_context *merged = gguf_init_empty();
    gguf_set_kv(merged, c->meta);
    for (size_t i = 0; i < sizeof dropped / sizeof dropped[0]; i++) {
        gguf_remove_key(merged, dropped[i]);
    }
    for (int i = 0; i < c->n_tensors; i++) {
        const struct st_tensor *t = &c->tensors[i];
        struct ggml_tensor g = {.type = (enum ggml_type)t->type};
        memcpy(g.ne, t->ne, sizeof g.ne);
        g.nb[0] = ggml_type_size(g.type);
        g.nb[1] = g.nb[0] * (size_t)(g.ne[0] / ggml_blck_size(g.type));
        g.nb[2] = g.nb[1] * (size_t)g.ne[1];
        g.nb[3] = g.nb[2] * (size_t)g.ne[2];
        ggml_set_name(&g, t->name);
        gguf_add_tensor(merged, &g);
    }
    return merged;
}

static enum strata_status map_splits(struct vgguf *v, const struct st_catalog *c,
    st_vgguf_skip skip, void *user, struct strata_error *err)
{
    struct gguf_context *merged = merge_headers(c);
    uint64_t length = gguf_get_meta_size(merged);
    enum strata_status status = STRATA_OK;
    if (!hold_header(v, length)) {
        status =
            st_fail(err, STRATA_E_NOMEM, "", "no memory for the headers of %s", c->files[0]->path);
    } else {
        gguf_get_meta_data(merged, v->header);
        v->size = length;
        for (int i = 0; i < c->n_tensors; i++) {
            uint64_t start = length + gguf_get_tensor_offset(merged, i);
            add_tensor(v, c, i, start, skip && skip(user, i));
            v->size = start + c->tensors[i].bytes;
        }
    }
    gguf_free(merged);
    return status;
}

enum strata_status st_vgguf_open(struct st_catalog *c, st_vgguf_skip skip, void *user,
    struct st_vgguf_stats *stats, struct strata_error *io_error, FILE **out,
    struct strata_error *err)
{
    struct vgguf *v = st_xcalloc(1, sizeof *v);
    v->segments = st_xcalloc((size_t)c->n_tensors + 1, sizeof *v->segments);
    v->stats = stats ? stats : &v->own_stats;
    v->io_error = io_error;
    FILE *f = NULL;
    enum strata_status status =
        c->n_files > 1 ? map_splits(v, c, skip, user, err) : map_single(v, c, skip, user, err);
    /* What was just read and what the catalogue knows must be the same files. */
    if (!status) {
        status = st_catalog_check_files(c, err);
    }
    if (!status) {
        f = st_cookie_open(v, &calls);
        status = f ? STRATA_OK
                   : st_fail_errno(
                         err, STRATA_E_NOMEM, errno, "", "no stream for %s", c->files[0]->path);
    }
    if (status) {
        vgguf_free(v);
        return status;
    }
    v->stats->read_bytes += v->segments[0].length;
    *out = f;
    return STRATA_OK;
}
