/*
 * header.c - the walk over a GGUF header (layout at the top of gguf.h), and the call of gguf.h.
 *
 * The header's length is not known beforehand: need() reads on in growing steps. The first failure
 * stays in `status`; from then on every take returns 0, so that loops need one check.
 */
#include "model/header.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "model/names.h"

#include "ggml.h"
#include "gguf.h"

#define FIRST_READ (1u << 20)
#define MAX_DATA   ((uint64_t)1 << 60) /* far from overflow, far above any model */

#define AGAIN "Download or copy the file again."

struct walk {
    struct fb_file *file;
    char *bytes;
    uint64_t have; /* bytes read so far, from the start of the file */
    uint64_t pos;
    uint64_t alignment;
    uint64_t n_strings;
    enum forebay_status status;
    struct forebay_error *err;
};

/* Where a name is: the bytes move while the header grows. */
struct name_at {
    uint64_t pos;
    uint32_t length;
};

const char *fb_header_printable(const char *s, size_t length, char buf[64])
{
    size_t n = length < 63 ? length : 63;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        buf[i] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
    }
    buf[n] = 0;
    return buf;
}

static void damaged(struct walk *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void damaged(struct walk *w, const char *format, ...)
{
    if (w->status) {
        return;
    }
    char what[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(what, sizeof what, format, ap);
    va_end(ap);
    w->status = fb_fail(w->err, FOREBAY_E_FORMAT, AGAIN, "%s is damaged: %s", w->file->path, what);
}

/* --- Bytes -------------------------------------------------------------------------------- */

static void read_on(struct walk *w, uint64_t end)
{
    uint64_t want = w->have ? 2 * w->have : FIRST_READ;
    want = fb_min(fb_max(want, end), w->file->size);
    char *bytes = realloc(w->bytes, want);
    if (!bytes) {
        w->status = fb_fail(w->err, FOREBAY_E_NOMEM, "", "no memory for the header of %s (%s)",
            w->file->path, FB_SIZE(want));
        return;
    }
    w->bytes = bytes;
    w->status = fb_file_read(w->file, bytes + w->have, want - w->have, w->have, w->err);
    w->have = want;
}

/* Makes `length` bytes at pos available. */
static bool need(struct walk *w, uint64_t length)
{
    if (w->status) {
        return false;
    }
    if (length > w->file->size - w->pos) {
        w->status = fb_fail(w->err, FOREBAY_E_FORMAT, AGAIN,
            "%s is truncated or damaged: its header goes on past its end (%s)", w->file->path,
            FB_SIZE(w->file->size));
    } else if (w->pos + length > FB_HEADER_MAX_BYTES) {
        damaged(w, "its header is larger than %s", FB_SIZE(FB_HEADER_MAX_BYTES));
    } else if (w->pos + length > w->have) {
        read_on(w, w->pos + length);
    }
    return !w->status;
}

static void take(struct walk *w, void *out, size_t size)
{
    memset(out, 0, size);
    if (need(w, size)) {
        memcpy(out, w->bytes + w->pos, size);
        w->pos += size;
    }
}

static uint32_t take_u32(struct walk *w)
{
    uint32_t value;
    take(w, &value, sizeof value);
    return value;
}

static uint64_t take_u64(struct walk *w)
{
    uint64_t value;
    take(w, &value, sizeof value);
    return value;
}

static void skip(struct walk *w, uint64_t length)
{
    if (need(w, length)) {
        w->pos += length;
    }
}

static struct name_at take_string(struct walk *w)
{
    uint64_t length = take_u64(w);
    struct name_at at = {w->pos, (uint32_t)length};
    skip(w, length);
    return at;
}

/* A key or tensor name: gguf.h hands names out as C strings, so a NUL inside would make two of
 * them one. */
static struct name_at take_name(struct walk *w, const char *what, uint32_t max)
{
    struct name_at at = take_string(w);
    char shown[64];
    if (!w->status && (at.length > max || memchr(w->bytes + at.pos, 0, at.length))) {
        damaged(w, "the name of a %s is not a name ('%s')", what,
            fb_header_printable(w->bytes + at.pos, at.length, shown));
    }
    return at;
}

/* --- Key-values --------------------------------------------------------------------------- */

static uint64_t scalar_size(uint32_t type)
{
    switch (type) {
    case GGUF_TYPE_UINT8:
    case GGUF_TYPE_INT8:
    case GGUF_TYPE_BOOL:
        return 1;
    case GGUF_TYPE_UINT16:
    case GGUF_TYPE_INT16:
        return 2;
    case GGUF_TYPE_UINT32:
    case GGUF_TYPE_INT32:
    case GGUF_TYPE_FLOAT32:
        return 4;
    case GGUF_TYPE_UINT64:
    case GGUF_TYPE_INT64:
    case GGUF_TYPE_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static void skip_values(struct walk *w, uint32_t type, uint64_t count)
{
    uint64_t size = scalar_size(type);
    if (size) {
        skip(w, count > UINT64_MAX / size ? UINT64_MAX : count * size);
        return;
    }
    w->n_strings += fb_min(count, UINT32_MAX);
    if (type != GGUF_TYPE_STRING) {
        damaged(w, "a value in its header has the unknown type %" PRIu32, type);
    } else if (w->n_strings > FB_HEADER_MAX_STRINGS) {
        damaged(w, "its header has more than %u strings", FB_HEADER_MAX_STRINGS);
    }
    for (uint64_t i = 0; i < count && !w->status; i++) {
        take_string(w);
    }
}

static void take_alignment(struct walk *w, uint32_t type)
{
    uint32_t value = take_u32(w);
    if (type != GGUF_TYPE_UINT32 || value == 0 || (value & (value - 1)) ||
        value > FB_HEADER_MAX_ALIGNMENT) {
        damaged(w, "its alignment is not a power of two");
        return;
    }
    w->alignment = value;
}

static struct name_at walk_kv(struct walk *w)
{
    struct name_at key = take_name(w, "key", UINT16_MAX);
    uint32_t type = take_u32(w);
    if (!w->status && key.length == 0) {
        damaged(w, "a key in its header is empty");
    }
    static const char alignment[] = GGUF_KEY_GENERAL_ALIGNMENT;
    if (!w->status && key.length == sizeof alignment - 1 &&
        memcmp(w->bytes + key.pos, alignment, key.length) == 0) {
        take_alignment(w, type);
    } else if (type == GGUF_TYPE_ARRAY) {
        type = take_u32(w);
        skip_values(w, type, take_u64(w));
    } else {
        skip_values(w, type, 1);
    }
    return key;
}

/* --- Tensors ------------------------------------------------------------------------------ */

/* Elements of the shape; false when they cannot be counted. Dimensions of 0 hide no overflow. */
static bool count_elements(const int64_t ne[4], int64_t *out)
{
    int64_t all = 1, nonzero = 1;
    for (int i = 0; i < 4; i++) {
        if (ne[i] < 0 || __builtin_mul_overflow(nonzero, ne[i] ? ne[i] : 1, &nonzero)) {
            return false;
        }
        all *= ne[i] ? 1 : 0;
    }
    *out = all * nonzero;
    return nonzero < INT64_MAX;
}

/* Bytes of the tensor's data; 0 and w->status when shape or type are impossible. */
static uint64_t tensor_bytes(struct walk *w, const char *name, const int64_t ne[4], uint32_t type)
{
    int64_t elements;
    uint64_t bytes;
    if (!count_elements(ne, &elements)) {
        damaged(w, "tensor '%s' has an impossible shape", name);
    } else if (type >= GGML_TYPE_COUNT || ggml_blck_size((enum ggml_type)type) <= 0) {
        damaged(w, "tensor '%s' has the unknown type %" PRIu32, name, type);
    } else if (ne[0] % ggml_blck_size((enum ggml_type)type)) {
        damaged(w, "tensor '%s' has rows of %" PRId64 " values, which %s cannot hold", name, ne[0],
            ggml_type_name((enum ggml_type)type));
    } else if (__builtin_mul_overflow((uint64_t)(elements / ggml_blck_size((enum ggml_type)type)),
                   (uint64_t)ggml_type_size((enum ggml_type)type), &bytes) ||
               bytes > MAX_DATA) {
        damaged(w, "tensor '%s' has an impossible size", name);
    } else {
        return bytes;
    }
    return 0;
}

/* *data_end is where the data of the tensors before ends, from the start of the data section;
 * gguf.h wants them back to back, padded to the alignment. */
static struct name_at walk_tensor(struct walk *w, uint64_t *data_end)
{
    struct name_at at = take_name(w, "tensor", GGML_MAX_NAME - 1);
    uint32_t n_dims = take_u32(w);
    int64_t ne[4] = {1, 1, 1, 1};
    char name[64];
    fb_header_printable(w->status ? "" : w->bytes + at.pos, w->status ? 0 : at.length, name);
    if (n_dims > 4) {
        damaged(w, "tensor '%s' has %" PRIu32 " dimensions", name, n_dims);
    }
    for (uint32_t i = 0; i < n_dims && !w->status; i++) {
        ne[i] = (int64_t)take_u64(w);
    }
    uint32_t type = take_u32(w);
    uint64_t offset = take_u64(w);
    uint64_t start = fb_round_up(*data_end, w->alignment);
    if (w->status) {
        return at;
    }
    uint64_t bytes = tensor_bytes(w, name, ne, type);
    if (!w->status && offset != start) {
        damaged(w, "tensor '%s' is at offset %" PRIu64 " of the data, not at %" PRIu64, name,
            offset, start);
    } else if (!w->status && start > MAX_DATA) {
        damaged(w, "tensor '%s' has an impossible size", name);
    }
    *data_end = start + bytes;
    return at;
}

/* --- The whole ---------------------------------------------------------------------------- */

static void check_magic(struct walk *w)
{
    char magic[4] = {0};
    if (w->file->size >= 4) {
        take(w, magic, 4);
    }
    if (!w->status && memcmp(magic, GGUF_MAGIC, 4) != 0) {
        w->status = fb_fail(w->err, FOREBAY_E_FORMAT,
            "Models are read in the GGUF format; their file names usually end in .gguf.",
            w->file->size ? "%s is not a GGUF file" : "%s is empty", w->file->path);
    }
    uint32_t version = take_u32(w);
    if (w->status || (version >= 2 && version <= GGUF_VERSION)) {
        return;
    }
    w->status = fb_fail(w->err, FOREBAY_E_FORMAT,
        version == 1 ? "Convert the model again with a current llama.cpp."
                     : "Models for big-endian machines and of later versions cannot be read.",
        "%s has the GGUF version %" PRIu32 ", not 2 or %d", w->file->path, version, GGUF_VERSION);
}

static uint64_t take_count(struct walk *w, const char *what, uint64_t max)
{
    uint64_t n = take_u64(w);
    if (n > max) {
        damaged(w, "it claims to hold %" PRIu64 " %s", n, what);
    }
    return w->status ? 0 : n;
}

static void check_unique(
    struct walk *w, const char *what, const struct name_at *names, uint64_t count)
{
    struct fb_names *table = fb_names_new(count);
    if (!table) {
        w->status =
            fb_fail(w->err, FOREBAY_E_NOMEM, "", "no memory for the header of %s", w->file->path);
        return;
    }
    for (uint64_t i = 0; i < count && !w->status; i++) {
        char shown[64];
        const char *s = w->bytes + names[i].pos;
        if (fb_names_add(table, s, names[i].length) >= 0) {
            damaged(w, "it has two %s named '%s'", what,
                fb_header_printable(s, names[i].length, shown));
        }
    }
    fb_names_free(table);
}

/* A file that was not copied to its end is the likeliest damage of all: say how much is missing. */
static void check_data_end(struct walk *w, uint64_t data_end)
{
    uint64_t start = fb_round_up(w->pos, w->alignment);
    uint64_t size = w->file->size;
    if (!w->status && start + data_end > size) {
        uint64_t missing = start + data_end - size;
        w->status = fb_fail(w->err, FOREBAY_E_FORMAT, AGAIN,
            "%s is truncated: %" PRIu64 " bytes (%s) of %s are missing", w->file->path, missing,
            FB_SIZE(missing), FB_SIZE(start + data_end));
    }
}

static void walk_header(struct walk *w)
{
    check_magic(w);
    uint64_t n_tensors = take_count(w, "tensors", FB_HEADER_MAX_TENSORS);
    uint64_t n_kv = take_count(w, "key-value pairs", FB_HEADER_MAX_KV);
    uint64_t data_end = 0;
    struct name_at *names = fb_xcalloc(fb_max(n_tensors, n_kv), sizeof *names);
    for (uint64_t i = 0; i < n_kv && !w->status; i++) {
        names[i] = walk_kv(w);
    }
    if (!w->status) {
        check_unique(w, "keys", names, n_kv);
    }
    for (uint64_t i = 0; i < n_tensors && !w->status; i++) {
        names[i] = walk_tensor(w, &data_end);
    }
    if (!w->status) {
        check_unique(w, "tensors", names, n_tensors);
    }
    if (n_tensors > 0) {
        check_data_end(w, data_end);
    }
    free(names);
}

/* gguf.h reads the bytes that were checked, not the file again. */
static size_t from_memory(void *user, void *output, uint64_t offset, size_t length)
{
    const struct walk *w = user;
    if (offset > w->have || length > w->have - offset) {
        return 0;
    }
    memcpy(output, w->bytes + offset, length);
    return length;
}

enum forebay_status fb_header_parse(
    struct fb_file *file, struct gguf_context **out, struct forebay_error *err)
{
    struct walk w = {.file = file, .alignment = GGUF_DEFAULT_ALIGNMENT, .err = err};
    walk_header(&w);
    if (!w.status) {
        struct gguf_init_params params = {.no_alloc = true, .ctx = NULL};
        struct gguf_context *meta = gguf_init_from_callback(from_memory, &w, 0, file->size, params);
        if (meta) {
            *out = meta;
        } else {
            damaged(&w, "llama.cpp cannot parse its header");
        }
    }
    free(w.bytes);
    return w.status;
}
