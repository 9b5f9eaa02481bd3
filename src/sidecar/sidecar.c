#include "sidecar/sidecar.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/units.h"
#include "os/dirs.h"
#include "os/output.h"
#include "sidecar/format.h"

/* More index than any model has: for a file whose head is hostile and well summed. */
#define INDEX_MOST (256 * FB_MIB)

struct fb_sidecar {
    const struct fb_catalog *catalog;
    struct fb_file *file;
    struct fb_sidecar_layout layout; /* weights by tensor */
    unsigned char *sums;             /* as in the file */
    bool *right;                     /* [n_sums] read and found right */
    bool complained;
};

/* A number for the model by what its header says: its place in the cache directory. */
static uint64_t model_number(const struct fb_catalog *c)
{
    uint64_t hash = fb_hash64(c->name, strlen(c->name), (uint64_t)c->n_files);
    for (int i = 0; i < c->n_tensors; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        hash = fb_hash64(t->name, strlen(t->name), hash + (uint64_t)t->type);
        hash = fb_hash64(&t->offset, sizeof t->offset, hash);
        hash = fb_hash64(&t->bytes, sizeof t->bytes, hash);
    }
    return hash;
}

bool fb_sidecar_path(const struct fb_catalog *c, bool kept, char *path, size_t cap)
{
    if (!kept) {
        int n = snprintf(path, cap, "%s.forebay", c->files[0]->path);
        return n > 0 && (size_t)n < cap;
    }
    char name[64];
    snprintf(name, sizeof name, "%016" PRIx64 ".forebay", model_number(c));
    return fb_cache_path(name, path, cap);
}

/* --- Opening ------------------------------------------------------------------------------- */

static enum forebay_status damaged(const char *path, const char *why, struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_FORMAT, "Run forebay optimize again.", "%s: %s", path, why);
}

static enum forebay_status read_head(
    struct fb_file *file, struct fb_sidecar_head *head, struct forebay_error *err)
{
    unsigned char bytes[FB_SIDECAR_HEAD_BYTES];
    const char *why;
    if (file->size < sizeof bytes) {
        return damaged(file->path, "it is not a sidecar", err);
    }
    enum forebay_status status = fb_file_read(file, bytes, sizeof bytes, 0, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (!fb_sidecar_head_unpack(bytes, head, &why)) {
        return damaged(file->path, why, err);
    }
    if (head->sums_sum == 0) {
        return damaged(file->path, "it is not complete", err);
    }
    if (head->file_bytes != file->size) {
        return damaged(file->path, "it has been cut off, or something was added to it", err);
    }
    return FOREBAY_OK;
}

/* Reads a range that has a checksum; ends it with a 0. */
static enum forebay_status read_summed(struct fb_file *file, uint64_t offset, uint64_t length,
    uint64_t sum, const char *what, unsigned char **out, struct forebay_error *err)
{
    if (length > INDEX_MOST) {
        return damaged(file->path, what, err);
    }
    unsigned char *bytes = fb_xmalloc(length + 1);
    enum forebay_status status = fb_file_read(file, bytes, length, offset, err);
    if (status == FOREBAY_OK && fb_sidecar_sum(bytes, length) != sum) {
        status = damaged(file->path, what, err);
    }
    if (status != FOREBAY_OK) {
        free(bytes);
        return status;
    }
    bytes[length] = 0;
    *out = bytes;
    return FOREBAY_OK;
}

static enum forebay_status read_all(
    struct fb_sidecar *s, const struct fb_sidecar_user *user, struct forebay_error *err)
{
    struct fb_sidecar_head head;
    unsigned char *text;
    enum forebay_status status = read_head(s->file, &head, err);
    if (status == FOREBAY_OK) {
        status = read_summed(s->file, FB_SIDECAR_HEAD_BYTES, head.index_bytes, head.index_sum,
            "its index is damaged", &text, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    status = fb_sidecar_index_read(s->file->path, (const char *)text, user, &head, &s->layout, err);
    free(text);
    if (status == FOREBAY_OK) {
        status = read_summed(s->file, head.sums_offset, 8 * head.n_sums, head.sums_sum,
            "its checksums are damaged", &s->sums, err);
    }
    if (status == FOREBAY_OK) {
        s->right = fb_xcalloc(head.n_sums, sizeof *s->right);
    }
    return status;
}

bool fb_sidecar_is_one(const char *path)
{
    struct fb_file *file;
    unsigned char bytes[FB_SIDECAR_HEAD_BYTES];
    if (fb_file_open(path, false, &file, NULL) != FOREBAY_OK) {
        return false;
    }
    bool is = fb_file_read(file, bytes, sizeof bytes, 0, NULL) == FOREBAY_OK &&
              fb_sidecar_has_magic(bytes);
    fb_file_close(file);
    return is;
}

bool fb_path_holds_weights(const char *path)
{
    struct fb_file *file;
    char magic[4];
    if (fb_path_is_no_file(path) || fb_file_open(path, false, &file, NULL) != FOREBAY_OK) {
        return false;
    }
    bool gguf = fb_file_read(file, magic, sizeof magic, 0, NULL) == FOREBAY_OK &&
                memcmp(magic, "GGUF", sizeof magic) == 0;
    fb_file_close(file);
    return gguf || fb_sidecar_is_one(path);
}

enum forebay_status fb_sidecar_open(const char *path, const struct fb_sidecar_user *user,
    struct fb_sidecar **out, struct forebay_error *err)
{
    struct fb_sidecar *s = fb_xcalloc(1, sizeof *s);
    s->catalog = user->catalog;
    enum forebay_status status = fb_file_open(path, true, &s->file, err);
    if (status == FOREBAY_OK) {
        status = read_all(s, user, err);
    }
    if (status != FOREBAY_OK) {
        fb_sidecar_close(s);
        return status;
    }
    *out = s;
    return FOREBAY_OK;
}

void fb_sidecar_close(struct fb_sidecar *s)
{
    if (s) {
        fb_file_close(s->file);
        fb_sidecar_layout_release(&s->layout);
        free(s->sums);
        free(s->right);
        free(s);
    }
}

/* --- Using --------------------------------------------------------------------------------- */

struct fb_file *fb_sidecar_file(const struct fb_sidecar *s)
{
    return s->file;
}

int fb_sidecar_n_weights(const struct fb_sidecar *s)
{
    return s->layout.n_weights;
}

const struct fb_sidecar_weight *fb_sidecar_find(const struct fb_sidecar *s, int tensor)
{
    int low = 0, high = s->layout.n_weights;
    while (low < high) {
        int middle = (low + high) / 2;
        if (s->layout.weights[middle].tensor < tensor) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const struct fb_sidecar_weight *w = &s->layout.weights[low];
    return low < s->layout.n_weights && w->tensor == tensor ? w : NULL;
}

bool fb_sidecar_right(
    struct fb_sidecar *s, const struct fb_sidecar_weight *w, int unit, const void *data)
{
    uint64_t i = w->first_sum + (uint64_t)unit * w->sum_step;
    if (!s->right[i]) {
        s->right[i] = fb_sidecar_sum(data, w->unit_bytes) == fb_sidecar_load64(s->sums + 8 * i);
    }
    return s->right[i];
}

void fb_sidecar_complain(
    struct fb_sidecar *s, const struct fb_sidecar_weight *w, int unit, const char *why)
{
    if (!s->complained) {
        const struct fb_tensor *t = &s->catalog->tensors[w->tensor];
        s->complained = true;
        fb_warn("%s: unit %d of %s is damaged (%s); what is damaged is read from the model, "
                "slowly: run forebay optimize again",
            s->file->path, unit, t->name, why);
    }
}
