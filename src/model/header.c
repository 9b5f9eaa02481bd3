/*
 * header.c - walks over a GGUF header (layout at the top of gguf.h), then calls gguf.h's parser.
 *
 *      magic version n_tensors n_kv | key-values | tensor infos | padding | tensor data
 *      \______________________ walked over ________________/             only its end is checked
 *
 * The header's length is not known beforehand: ensure() reads more of the file in growing steps.
 * The first failure stays in `status`; from then on every read_* returns 0, so that loops need one
 * check.
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

/* The place of a name in w->bytes; not a pointer, because realloc moves them. */
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

static bool ok(const struct walk *w)
{
    return w->status == FOREBAY_OK;
}

/* The first failure: the file is damaged, for the reason given. */
static void damaged(struct walk *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void damaged(struct walk *w, const char *format, ...)
{
    if (!ok(w)) {
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

static void read_more(struct walk *w, uint64_t end)
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
static bool ensure(struct walk *w, uint64_t length)
{
    if (!ok(w)) {
        return false;
    }
    if (length > w->file->size - w->pos) {
        w->status = fb_fail(w->err, FOREBAY_E_FORMAT, AGAIN,
            "%s is truncated or damaged: its header reaches past the end of the file (%s)",
            w->file->path, FB_SIZE(w->file->size));
    } else if (w->pos + length > FB_HEADER_MAX_BYTES) {
        damaged(w, "its header is larger than %s", FB_SIZE(FB_HEADER_MAX_BYTES));
    } else if (w->pos + length > w->have) {
        read_more(w, w->pos + length);
    }
    return ok(w);
}

static void read_bytes(struct walk *w, void *out, size_t size)
{
    memset(out, 0, size);
    if (ensure(w, size)) {
        memcpy(out, w->bytes + w->pos, size);
        w->pos += size;
    }
}

static uint32_t read_u32(struct walk *w)
{
    uint32_t value;
    read_bytes(w, &value, sizeof value);
    return value;
}

static uint64_t read_u64(struct walk *w)
{
    uint64_t value;
    read_bytes(w, &value, sizeof value);
    return value;
}

static void skip(struct walk *w, uint64_t length)
{
    if (ensure(w, length)) {
        w->pos += length;
    }
}

static struct name_at read_string(struct walk *w)
{
    uint64_t length = read_u64(w);
    struct name_at at = {w->pos, (uint32_t)length};
    skip(w, length);
    return at;
}

/* A key or tensor name. gguf.h returns names as C strings, so with a NUL inside two different names
 * would look the same. */
static struct name_at read_name(struct walk *w, const char *what, uint32_t max)
{
    struct name_at at = read_string(w);
    char shown[64];
    if (ok(w) && (at.length > max || memchr(w->bytes + at.pos, 0, at.length))) {
        damaged(w, "the name of a %s is too long or has a NUL in it ('%s')", what,
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
    for (uint64_t i = 0; i < count && ok(w); i++) {
        read_string(w);
    }
}

static void read_alignment(struct walk *w, uint32_t type)
{
    uint32_t value = read_u32(w);
    if (type != GGUF_TYPE_UINT32 || value == 0 || (value & (value - 1)) ||
        value > FB_HEADER_MAX_ALIGNMENT) {
        damaged(w, "its alignment is not a power of two");
        return;
    }
    w->alignment = value;
}

static struct name_at walk_kv(struct walk *w)
{
    struct name_at key = read_name(w, "key", UINT16_MAX);
    uint32_t type = read_u32(w);
    if (ok(w) && key.length == 0) {
        damaged(w, "a key in its header is empty");
    }
    static const char alignment[] = GGUF_KEY_GENERAL_ALIGNMENT;
    if (ok(w) && key.length == sizeof alignment - 1 &&
        memcmp(w->bytes + key.pos, alignment, key.length) == 0) {
        read_alignment(w, type);
    } else if (type == GGUF_TYPE_ARRAY) {
        type = read_u32(w);
        skip_values(w, type, read_u64(w));
    } else {
        skip_values(w, type, 1);
    }
    return key;
}

/* --- Tensors ------------------------------------------------------------------------------ */

/* Number of elements; false when it overflows, also when a dimension of 0 would hide that. */
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

/* *data_end is the end of the previous tensor's data, from the start of the data section; gguf.h
 * requires tensors back to back, padded to the alignment. */
static struct name_at walk_tensor(struct walk *w, uint64_t *data_end)
{
    struct name_at at = read_name(w, "tensor", GGML_MAX_NAME - 1);
    uint32_t n_dims = read_u32(w);
    int64_t ne[4] = {1, 1, 1, 1};
    char name[64];
    fb_header_printable(ok(w) ? w->bytes + at.pos : "", ok(w) ? at.length : 0, name);
    if (n_dims > 4) {
        damaged(w, "tensor '%s' has %" PRIu32 " dimensions", name, n_dims);
    }
    for (uint32_t i = 0; i < n_dims && ok(w); i++) {
        ne[i] = (int64_t)read_u64(w);
    }
    uint32_t type = read_u32(w);
    uint64_t offset = read_u64(w);
    uint64_t start = fb_round_up(*data_end, w->alignment);
    if (!ok(w)) {
        return at;
    }
    uint64_t bytes = tensor_bytes(w, name, ne, type);
    if (ok(w) && offset != start) {
        damaged(w, "tensor '%s' is at offset %" PRIu64 " of the data, not at %" PRIu64, name,
            offset, start);
    } else if (ok(w) && start > MAX_DATA) {
        damaged(w, "tensor '%s' has an impossible size", name);
    }
    *data_end = start + bytes;
    return at;
}

/* --- The header ---------------------------------------------------------------------------- */

static void check_magic(struct walk *w)
{
    char magic[4] = {0};
    if (w->file->size >= 4) {
        read_bytes(w, magic, 4);
    }
    if (ok(w) && memcmp(magic, GGUF_MAGIC, 4) != 0) {
        w->status = fb_fail(w->err, FOREBAY_E_FORMAT,
            "Models are read in the GGUF format; their file names usually end in .gguf.",
            w->file->size ? "%s is not a GGUF file" : "%s is empty", w->file->path);
    }
    uint32_t version = read_u32(w);
    if (!ok(w) || (version >= 2 && version <= GGUF_VERSION)) {
        return;
    }
    w->status = fb_fail(w->err, FOREBAY_E_FORMAT,
        version == 1 ? "Convert the model again with a current llama.cpp."
                     : "Big-endian models and later versions are not supported.",
        "%s has the GGUF version %" PRIu32 ", not 2 or %d", w->file->path, version, GGUF_VERSION);
}

static uint64_t read_count(struct walk *w, const char *what, uint64_t max)
{
    uint64_t n = read_u64(w);
    if (n > max) {
        damaged(w, "it claims to hold %" PRIu64 " %s", n, what);
    }
    return ok(w) ? n : 0;
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
    for (uint64_t i = 0; i < count && ok(w); i++) {
        char shown[64];
        const char *s = w->bytes + names[i].pos;
        if (fb_names_add(table, s, names[i].length) >= 0) {
            damaged(w, "it has two %s named '%s'", what,
                fb_header_printable(s, names[i].length, shown));
        }
    }
    fb_names_free(table);
}

/* An incomplete copy is the most likely damage: the message says how much is missing. */
static void check_data_end(struct walk *w, uint64_t data_end)
{
    uint64_t start = fb_round_up(w->pos, w->alignment);
    uint64_t size = w->file->size;
    if (ok(w) && start + data_end > size) {
        uint64_t missing = start + data_end - size;
        w->status = fb_fail(w->err, FOREBAY_E_FORMAT, AGAIN,
            "%s is truncated: %" PRIu64 " bytes (%s) of %s are missing", w->file->path, missing,
            FB_SIZE(missing), FB_SIZE(start + data_end));
    }
}

static void walk_header(struct walk *w)
{
    check_magic(w);
    uint64_t n_tensors = read_count(w, "tensors", FB_HEADER_MAX_TENSORS);
    uint64_t n_kv = read_count(w, "key-value pairs", FB_HEADER_MAX_KV);
    uint64_t data_end = 0;
    struct name_at *names = fb_xcalloc(fb_max(n_tensors, n_kv), sizeof *names);
    for (uint64_t i = 0; i < n_kv && ok(w); i++) {
        names[i] = walk_kv(w);
    }
    if (ok(w)) {
        check_unique(w, "keys", names, n_kv);
    }
    for (uint64_t i = 0; i < n_tensors && ok(w); i++) {
        names[i] = walk_tensor(w, &data_end);
    }
    if (ok(w)) {
        check_unique(w, "tensors", names, n_tensors);
    }
    if (n_tensors > 0) {
        check_data_end(w, data_end);
    }
    free(names);
}

/* gguf.h parses the bytes that were checked; it does not read the file again. */
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
    if (ok(&w)) {
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
