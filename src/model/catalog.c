/*
 * catalog.c - opens the files of a model, checks that they belong together, and lists the tensors.
 *
 * Each file is parsed and checked on its own (header.c); the catalogue then joins well-formed
 * lists. The key-values of the files after the first are not kept.
 */
#include "model/catalog.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/header.h"
#include "model/meta.h"
#include "model/names.h"
#include "model/roles.h"
#include "model/split.h"

#include "ggml.h"
#include "gguf.h"

/* llama.cpp numbers splits with 16 bits; llama-gguf-split writes five digits. */
#define MAX_FILES 65535

#define INCOMPLETE "Put all parts of the model in one directory, under their original names."

/* --- Files -------------------------------------------------------------------------------- */

static const char *last_component(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The first file must be the one with the model's key-values. */
static enum forebay_status check_first(
    const char *path, const struct gguf_context *meta, int n_files, struct forebay_error *err)
{
    uint64_t no = fb_meta_uint(meta, "split.no", 0);
    if (no != 0) {
        char hint[256];
        char *first = fb_split_path(path, 0, n_files);
        snprintf(hint, sizeof hint, "Give the first file%s%.180s.", first ? ": " : "",
            first ? last_component(first) : "");
        free(first);
        return fb_fail(err, FOREBAY_E_FORMAT, hint, "%s is part %" PRIu64 " of %d of a split model",
            path, no + 1, n_files);
    }
    if (n_files > 1 && !fb_split_is_named(path, 0, n_files)) {
        char hint[256];
        snprintf(hint, sizeof hint,
            "Give the parts their original names: NAME-00001-of-%05d.gguf and so on.", n_files);
        return fb_fail(err, FOREBAY_E_FORMAT, hint,
            "%s is the first of %d parts of a split model, but its name does not say so", path,
            n_files);
    }
    return FOREBAY_OK;
}

static enum forebay_status check_part(const char *path, const struct gguf_context *meta, int no,
    int n_files, struct forebay_error *err)
{
    uint64_t own_no = fb_meta_uint(meta, "split.no", UINT32_MAX);
    uint64_t own_count = fb_meta_uint(meta, "split.count", (uint64_t)n_files);
    if (own_no == (uint64_t)no && own_count == (uint64_t)n_files) {
        return FOREBAY_OK;
    }
    if (own_no == UINT32_MAX) {
        return fb_fail(err, FOREBAY_E_FORMAT, INCOMPLETE,
            "%s is not part %d of a split model: it has no split.no", path, no + 1);
    }
    return fb_fail(err, FOREBAY_E_FORMAT, INCOMPLETE,
        "%s says it is part %" PRIu64 " of %" PRIu64 ", not part %d of %d", path, own_no + 1,
        own_count, no + 1, n_files);
}

/* Opens and parses files[no]. */
static enum forebay_status open_part(struct fb_catalog *c, int no, const char *path,
    bool want_direct, struct gguf_context **meta, struct forebay_error *err)
{
    enum forebay_status status = fb_file_open(path, want_direct, &c->files[no], err);
    if (status == FOREBAY_OK) {
        c->file_bytes += c->files[no]->size;
        status = fb_header_parse(c->files[no], meta, err);
    }
    return status;
}

/* --- Tensors ------------------------------------------------------------------------------ */

static void set_experts(struct fb_tensor *t)
{
    int dim = fb_expert_dim_of(t->name);
    if (dim < 0 || t->ne[dim] <= 0 || t->ne[dim] > INT_MAX || t->bytes % (uint64_t)t->ne[dim]) {
        return;
    }
    t->n_expert = (int)t->ne[dim];
    t->expert_bytes = t->bytes / (uint64_t)t->n_expert;
}

static bool is_weight(const char *name)
{
    size_t n = strlen(name);
    return n >= 7 && strcmp(name + n - 7, ".weight") == 0;
}

/* t->name is set. */
static void describe(struct fb_tensor *t, const struct gguf_context *meta, int64_t i, int file)
{
    t->type = gguf_get_tensor_type(meta, i);
    memcpy(t->ne, gguf_get_tensor_ne(meta, i), sizeof t->ne);
    t->n_dims = 1;
    for (int d = 1; d < 4; d++) {
        t->n_dims = t->ne[d] > 1 ? d + 1 : t->n_dims;
    }
    t->bytes = gguf_get_tensor_size(meta, i);
    t->role = fb_role_of(t->name);
    t->layer = fb_layer_of(t->name);
    t->file = file;
    t->offset = gguf_get_data_offset(meta) + gguf_get_tensor_offset(meta, i);
    t->matrix = is_weight(t->name) && t->ne[1] > 1;
    set_experts(t);
}

static enum forebay_status reserve(struct fb_catalog *c, int64_t n_more, struct forebay_error *err)
{
    int64_t n = c->n_tensors + n_more;
    if (n > (int64_t)FB_HEADER_MAX_TENSORS) {
        return fb_fail(err, FOREBAY_E_FORMAT, "", "%s and its parts hold more than %u tensors",
            c->files[0]->path, FB_HEADER_MAX_TENSORS);
    }
    struct fb_tensor *tensors = realloc(c->tensors, (size_t)(n + 1) * sizeof *tensors);
    char *text = tensors ? realloc(c->name_text, (size_t)(n + 1) * GGML_MAX_NAME) : NULL;
    c->tensors = tensors ? tensors : c->tensors;
    c->name_text = text ? text : c->name_text;
    return text ? FOREBAY_OK
                : fb_fail(err, FOREBAY_E_NOMEM, "", "no memory for the list of tensors");
}

/* Appends the tensors of files[no]. `name` is only valid until the next call moves the names;
 * index_names sets the final pointers. */
static enum forebay_status add_tensors(
    struct fb_catalog *c, const struct gguf_context *meta, int no, struct forebay_error *err)
{
    int64_t n = gguf_get_n_tensors(meta);
    enum forebay_status status = reserve(c, n, err);
    for (int64_t i = 0; i < n && status == FOREBAY_OK; i++) {
        struct fb_tensor *t = &c->tensors[c->n_tensors];
        char *name = c->name_text + (size_t)c->n_tensors * GGML_MAX_NAME;
        memset(t, 0, sizeof *t);
        snprintf(name, GGML_MAX_NAME, "%s", gguf_get_tensor_name(meta, i));
        t->name = name;
        describe(t, meta, i, no);
        c->n_tensors++;
        c->tensor_bytes += t->bytes;
        c->parameters += (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
    }
    return status;
}

static enum forebay_status index_names(struct fb_catalog *c, struct forebay_error *err)
{
    c->by_name = fb_names_new((size_t)c->n_tensors);
    if (!c->by_name) {
        return fb_fail(err, FOREBAY_E_NOMEM, "", "no memory for the list of tensors");
    }
    for (int i = 0; i < c->n_tensors; i++) {
        struct fb_tensor *t = &c->tensors[i];
        t->name = c->name_text + (size_t)i * GGML_MAX_NAME;
        int other = fb_names_add(c->by_name, t->name, strlen(t->name));
        if (other >= 0) {
            char shown[64];
            return fb_fail(err, FOREBAY_E_FORMAT, INCOMPLETE, "%s and %s both hold tensor '%s'",
                c->files[c->tensors[other].file]->path, c->files[t->file]->path,
                fb_header_printable(t->name, strlen(t->name), shown));
        }
    }
    return FOREBAY_OK;
}

/* --- Opening and closing
 * ---------------------------------------------------------------------------- */

static enum forebay_status open_rest(
    struct fb_catalog *c, const char *path, bool want_direct, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    for (int no = 1; no < c->n_files && status == FOREBAY_OK; no++) {
        struct gguf_context *meta = NULL;
        char *part = fb_split_path(path, no, c->n_files);
        FB_ASSERT(part);
        status = open_part(c, no, part, want_direct, &meta, err);
        if (status == FOREBAY_E_IO && err) {
            snprintf(err->hint, sizeof err->hint, "%s", INCOMPLETE);
        }
        if (status == FOREBAY_OK) {
            status = check_part(part, meta, no, c->n_files, err);
        }
        if (status == FOREBAY_OK) {
            status = add_tensors(c, meta, no, err);
        }
        gguf_free(meta);
        free(part);
    }
    uint64_t expected = fb_meta_uint(c->meta, "split.tensors.count", (uint64_t)c->n_tensors);
    if (status == FOREBAY_OK && c->n_files > 1 && expected != (uint64_t)c->n_tensors) {
        status = fb_fail(err, FOREBAY_E_FORMAT, INCOMPLETE,
            "the parts of %s hold %d tensors, not %" PRIu64, path, c->n_tensors, expected);
    }
    return status;
}

static void read_architecture(struct fb_catalog *c)
{
    fb_meta_string(c->meta, "general.architecture", c->arch, sizeof c->arch);
    fb_meta_string(c->meta, "general.name", c->name, sizeof c->name);
    c->n_layer = (int)fb_meta_arch_uint(c->meta, c->arch, "block_count", 0);
    c->n_expert = (int)fb_meta_arch_uint(c->meta, c->arch, "expert_count", 0);
    c->n_expert_used = (int)fb_meta_arch_uint(c->meta, c->arch, "expert_used_count", 0);
}

static enum forebay_status open_all(
    struct fb_catalog *c, const char *path, bool want_direct, struct forebay_error *err)
{
    c->n_files = 1;
    c->files = fb_xcalloc(1, sizeof *c->files);
    enum forebay_status status = open_part(c, 0, path, want_direct, &c->meta, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    uint64_t count = fb_meta_uint(c->meta, "split.count", 1);
    if (count > MAX_FILES) {
        return fb_fail(err, FOREBAY_E_FORMAT, "",
            "%s is damaged: it claims to be one of %" PRIu64 " files", path, count);
    }
    int n_files = count > 1 ? (int)count : 1;
    status = check_first(path, c->meta, n_files, err);
    if (status == FOREBAY_OK) {
        status = add_tensors(c, c->meta, 0, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    c->files = fb_xrealloc(c->files, (size_t)n_files * sizeof *c->files);
    memset(c->files + 1, 0, (size_t)(n_files - 1) * sizeof *c->files);
    c->n_files = n_files;
    status = open_rest(c, path, want_direct, err);
    read_architecture(c);
    return status == FOREBAY_OK ? index_names(c, err) : status;
}

enum forebay_status fb_catalog_open(
    const char *path, bool want_direct, struct fb_catalog **out, struct forebay_error *err)
{
    struct fb_catalog *c = fb_xcalloc(1, sizeof *c);
    enum forebay_status status = open_all(c, path, want_direct, err);
    if (status != FOREBAY_OK) {
        fb_catalog_free(c);
        return status;
    }
    *out = c;
    return FOREBAY_OK;
}

void fb_catalog_free(struct fb_catalog *c)
{
    if (!c) {
        return;
    }
    fb_names_free(c->by_name);
    free(c->name_text);
    free(c->tensors);
    gguf_free(c->meta);
    for (int i = 0; i < c->n_files; i++) {
        fb_file_close(c->files[i]);
    }
    free(c->files);
    free(c);
}

int fb_catalog_find(const struct fb_catalog *c, const char *name)
{
    return fb_names_find(c->by_name, name, strlen(name));
}

enum forebay_status fb_catalog_check_files(const struct fb_catalog *c, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    for (int i = 0; i < c->n_files && status == FOREBAY_OK; i++) {
        status = fb_file_check(c->files[i], err);
    }
    return status;
}

/* --- Bytes per token ---------------------------------------------------------------------- */

/* bytes * used / all, without overflow. */
static uint64_t share(uint64_t bytes, int used, int all)
{
    return used >= all ? bytes : bytes / (uint64_t)all * (uint64_t)used;
}

static uint64_t touched(const struct fb_catalog *c, const struct fb_tensor *t, bool tied)
{
    switch (t->role) {
    case FB_ROLE_EXPERT_GATE:
    case FB_ROLE_EXPERT_UP:
    case FB_ROLE_EXPERT_DOWN:
    case FB_ROLE_EXPERT_GATE_UP:
    case FB_ROLE_EXPERT_AUX: {
        int all = t->n_expert ? t->n_expert : c->n_expert;
        return all > 0 ? share(t->bytes, c->n_expert_used, all) : t->bytes;
    }
    case FB_ROLE_EMBEDDING: {
        bool whole =
            !fb_is_row_table(t->name) || (tied && strcmp(t->name, "token_embd.weight") == 0);
        uint64_t rows = (uint64_t)(t->ne[1] * t->ne[2] * t->ne[3]);
        return whole || rows == 0 ? t->bytes : t->bytes / rows;
    }
    default:
        return t->bytes;
    }
}

uint64_t fb_catalog_bytes_per_token(const struct fb_catalog *c)
{
    bool tied = fb_catalog_find(c, "output.weight") < 0;
    uint64_t total = 0;
    for (int i = 0; i < c->n_tensors; i++) {
        total += touched(c, &c->tensors[i], tied);
    }
    return total;
}
