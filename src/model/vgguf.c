/*
 * vgguf.c - the virtual file: a header made here, then every tensor at a multiple of TENSOR_ALIGN.
 * The gaps between them read as zeros.
 *
 *      | header (memory)    | t0 in file 1 | t1 in file 1    | t2 in file 2 | ...
 *      0                    1              3                 7     x TENSOR_ALIGN
 *
 * Reason: glibc's fseeko is exact only at multiples of the stream's buffer size; anywhere else it
 * would read a bufferful and discard it. llama.cpp seeks to every tensor, also to those it does not
 * read. The header sets GGUF's key for this, general.alignment, to TENSOR_ALIGN.
 */
#include "model/vgguf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "model/runnable.h"
#include "os/cookie.h"
#include "os/memory.h"

#include "ggml.h"
#include "gguf.h"

/* Also the size of a read. Loading a cached 1.6 GB model: 3.4 GB/s with 1 MiB, 2.5 with 256 KiB or
 * 4 MiB (x86-64, 2 cores); no difference from disk. */
#define TENSOR_ALIGN FB_MIB

struct segment {
    uint64_t start; /* in the virtual file */
    uint64_t length;
    struct fb_file *file; /* NULL: the header */
    uint64_t offset;      /* in `file` */
};

struct vgguf {
    char *header;             /* segment 0 */
    struct segment *segments; /* ascending */
    int n_segments;
    int current; /* segment of the last read: most reads continue there */
    uint64_t size;
    uint64_t pos;
    bool drop_cache; /* drop pages from the page cache after reading */
    struct fb_vgguf_stats *stats;
    struct fb_vgguf_stats own_stats;
    struct forebay_error *io_error;
};

/* --- The stream --------------------------------------------------------------------------- */

/* The last segment that starts at or before `pos`. */
static const struct segment *segment_at(struct vgguf *v, uint64_t pos)
{
    int low = 0, high = v->n_segments;
    if (pos >= v->segments[v->current].start) {
        low = v->current;
        high = low + 1 < high && pos < v->segments[low + 1].start ? low + 1 : high;
    }
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (v->segments[middle].start <= pos) {
            low = middle;
        } else {
            high = middle;
        }
    }
    v->current = low;
    return &v->segments[low];
}

/* When memory is short, the cached pages are dropped at once: they would displace memory in use.
 * The first page may be shared with the read before. */
static bool read_file(
    struct vgguf *v, const struct segment *s, uint64_t inside, void *to, uint64_t length)
{
    struct forebay_error unused;
    uint64_t offset = s->offset + inside;
    if (fb_file_read(s->file, to, length, offset, v->io_error ? v->io_error : &unused) !=
        FOREBAY_OK) {
        errno = EIO;
        return false;
    }
    if (v->drop_cache) {
        uint64_t begin = fb_round_down(offset, FB_BLOCK_BYTES);
        fb_file_drop_cache(s->file, begin, offset + length - begin);
    }
    v->stats->read_bytes += length;
    return true;
}

static int64_t on_read(void *user, void *buffer, size_t length)
{
    struct vgguf *v = user;
    if (v->pos >= v->size) {
        return 0;
    }
    const struct segment *s = segment_at(v, v->pos);
    uint64_t inside = v->pos - s->start;
    bool gap = inside >= s->length;
    uint64_t end = !gap                                  ? s->start + s->length
                   : s + 1 < v->segments + v->n_segments ? s[1].start
                                                         : v->size;
    uint64_t n = fb_min(length, end - v->pos);
    if (gap) {
        memset(buffer, 0, n);
    } else if (!s->file) {
        memcpy(buffer, v->header + inside, n);
    } else if (!read_file(v, s, inside, buffer, n)) {
        return -1;
    }
    v->pos += n;
    return (int64_t)n;
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

static const struct fb_cookie_calls calls = {on_read, on_seek, vgguf_free};

/* --- The header --------------------------------------------------------------------------- */

/* An empty header with the alignment TENSOR_ALIGN, which gguf.h can only set by parsing. */
static struct gguf_context *empty_header(void)
{
    static const char key[] = GGUF_KEY_GENERAL_ALIGNMENT;
    struct __attribute__((packed)) {
        char magic[4];
        uint32_t version;
        uint64_t n_tensors, n_kv, key_length;
        char key[sizeof key - 1];
        uint32_t type, value;
    } bytes = {{'G', 'G', 'U', 'F'}, GGUF_VERSION, 0, 1, sizeof key - 1, {0}, GGUF_TYPE_UINT32,
        TENSOR_ALIGN};
    memcpy(bytes.key, key, sizeof bytes.key);
    struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
    struct gguf_context *g = gguf_init_from_buffer(&bytes, sizeof bytes, params);
    FB_ASSERT(g && gguf_get_alignment(g) == TENSOR_ALIGN);
    return g;
}

/* The model's keys, and all tensors as if they were in one file. */
static struct gguf_context *make_header(const struct fb_catalog *c)
{
    struct gguf_context *g = empty_header();
    gguf_set_kv(g, c->meta);
    gguf_remove_key(g, "split.no");
    gguf_remove_key(g, "split.count");
    gguf_remove_key(g, "split.tensors.count");
    gguf_set_val_u32(g, GGUF_KEY_GENERAL_ALIGNMENT, TENSOR_ALIGN);
    for (int i = 0; i < c->n_tensors; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        struct ggml_tensor shape = {.type = (enum ggml_type)t->type};
        memcpy(shape.ne, t->ne, sizeof shape.ne);
        shape.nb[0] = ggml_type_size(shape.type);
        shape.nb[1] = shape.nb[0] * (size_t)(shape.ne[0] / ggml_blck_size(shape.type));
        shape.nb[2] = shape.nb[1] * (size_t)shape.ne[1];
        shape.nb[3] = shape.nb[2] * (size_t)shape.ne[2];
        ggml_set_name(&shape, t->name);
        gguf_add_tensor(g, &shape);
    }
    return g;
}

static enum forebay_status fill(
    struct vgguf *v, const struct fb_catalog *c, struct forebay_error *err)
{
    struct gguf_context *g = make_header(c);
    uint64_t length = gguf_get_meta_size(g);
    v->header = malloc(length);
    v->segments = calloc((size_t)c->n_tensors + 1, sizeof *v->segments);
    enum forebay_status status = FOREBAY_OK;
    if (!v->header || !v->segments) {
        status = fb_fail(err, FOREBAY_E_NOMEM, "", "no memory for the header of %s (%s)",
            c->files[0]->path, FB_SIZE(length));
    } else {
        gguf_get_meta_data(g, v->header);
        v->segments[v->n_segments++] = (struct segment){.start = 0, .length = length};
        v->size = length;
    }
    for (int i = 0; i < c->n_tensors && status == FOREBAY_OK; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        uint64_t start = length + gguf_get_tensor_offset(g, i);
        if (t->bytes > 0) {
            v->segments[v->n_segments++] =
                (struct segment){start, t->bytes, c->files[t->file], t->offset};
        }
        v->size = start + t->bytes;
    }
    gguf_free(g);
    return status;
}

/* Whether memory has room for the weights and for a cached copy, which makes the next start
 * faster. */
static bool has_room_for_cache(const struct fb_catalog *c)
{
    struct fb_memory_state memory;
    fb_memory_state(&memory);
    return fb_memory_headroom(&memory) / 2 > c->file_bytes;
}

enum forebay_status fb_vgguf_open(struct fb_catalog *c, struct fb_vgguf_stats *stats,
    struct forebay_error *io_error, FILE **out, struct forebay_error *err)
{
    enum forebay_status status = fb_catalog_check_files(c, err);
    for (int i = 0; i < c->n_files && status == FOREBAY_OK; i++) {
        status = fb_file_remember(c->files[i], err);
    }
    if (status == FOREBAY_OK) {
        status = fb_catalog_check_runnable(c, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    struct vgguf *v = fb_xcalloc(1, sizeof *v);
    v->stats = stats ? stats : &v->own_stats;
    v->io_error = io_error;
    v->drop_cache = !has_room_for_cache(c);
    status = fill(v, c, err);
    FILE *f = status == FOREBAY_OK ? fb_cookie_open(v, &calls, TENSOR_ALIGN) : NULL;
    if (!f && status == FOREBAY_OK) {
        status = fb_fail(err, FOREBAY_E_NOMEM, "", "no memory to read %s", c->files[0]->path);
    }
    if (status != FOREBAY_OK) {
        vgguf_free(v);
        return status;
    }
    *out = f;
    return FOREBAY_OK;
}
