/*
 * sidecar.c - see sidecar.h. Opening reads head, index and checksums, in this order, and verifies
 * each before it is used; units are verified when they are first read.
 */
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

/* More than any model needs: limits the allocation for a hostile head with a valid checksum. */
#define INDEX_MAX (256 * FB_MIB)

struct fb_sidecar {
    const struct fb_catalog *catalog;
    struct fb_file *file;
    struct fb_sidecar_contents contents; /* weights by tensor */
    unsigned char *sums;                 /* as in the file */
    bool *valid;                         /* [n_sums] read before, with the right checksum */
    bool warned;
};

/* Identifies the model by its header: its name in the cache directory. */
static uint64_t model_id(const struct fb_catalog *c)
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

bool fb_sidecar_path(const struct fb_catalog *c, bool in_cache_dir, char *path, size_t cap)
{
    if (!in_cache_dir) {
        int n = snprintf(path, cap, "%s.forebay", c->files[0]->path);
        return n > 0 && (size_t)n < cap;
    }
    char name[64];
    snprintf(name, sizeof name, "%016" PRIx64 ".forebay", model_id(c));
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
        return damaged(file->path, "it is incomplete", err);
    }
    if (head->file_bytes != file->size) {
        return damaged(file->path, "its size is wrong: it was truncated or extended", err);
    }
    return FOREBAY_OK;
}

/* Reads a range, verifies its checksum, and appends a NUL. */
static enum forebay_status read_summed(struct fb_file *file, uint64_t offset, uint64_t length,
    uint64_t sum, const char *what, unsigned char **out, struct forebay_error *err)
{
    if (length > INDEX_MAX) {
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
    status =
        fb_sidecar_index_read(s->file->path, (const char *)text, user, &head, &s->contents, err);
    free(text);
    if (status == FOREBAY_OK) {
        status = read_summed(s->file, head.sums_offset, 8 * head.n_sums, head.sums_sum,
            "its checksums are damaged", &s->sums, err);
    }
    if (status == FOREBAY_OK) {
        s->valid = fb_xcalloc(head.n_sums, sizeof *s->valid);
    }
    return status;
}

bool fb_sidecar_detect(const char *path)
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
    return gguf || fb_sidecar_detect(path);
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
    if (status == FOREBAY_OK) {
        status = fb_file_remember(s->file, err);
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
        fb_sidecar_contents_release(&s->contents);
        free(s->sums);
        free(s->valid);
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
    return s->contents.n_weights;
}

const struct fb_sidecar_weight *fb_sidecar_find(const struct fb_sidecar *s, int tensor)
{
    int low = 0, high = s->contents.n_weights;
    while (low < high) {
        int middle = (low + high) / 2;
        if (s->contents.weights[middle].tensor < tensor) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const struct fb_sidecar_weight *w = &s->contents.weights[low];
    return low < s->contents.n_weights && w->tensor == tensor ? w : NULL;
}

bool fb_sidecar_verify(
    struct fb_sidecar *s, const struct fb_sidecar_weight *w, int unit, const void *data)
{
    uint64_t i = w->first_sum + (uint64_t)unit * w->sum_step;
    if (!s->valid[i]) {
        s->valid[i] = fb_sidecar_sum(data, w->unit_bytes) == fb_sidecar_load64(s->sums + 8 * i);
    }
    return s->valid[i];
}

void fb_sidecar_warn_damaged(
    struct fb_sidecar *s, const struct fb_sidecar_weight *w, int unit, const char *why)
{
    if (!s->warned) {
        const struct fb_tensor *t = &s->catalog->tensors[w->tensor];
        s->warned = true;
        fb_warn("%s: unit %d of %s is damaged (%s); damaged units are read from the model, which "
                "is slower: run forebay optimize again",
            s->file->path, unit, t->name, why);
    }
}
