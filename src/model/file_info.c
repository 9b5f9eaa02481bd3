/* file_info.c - forebay_file_* of forebay.h: the catalogue for programs that use the library. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/catalog.h"

#include "ggml.h"

struct forebay_file {
    struct fb_catalog *catalog;
    char type_names[GGML_TYPE_COUNT][16]; /* "Q4_K", where ggml says "q4_K" */
};

enum forebay_status forebay_file_open(
    const char *path, struct forebay_file **out, struct forebay_error *err)
{
    struct fb_catalog *catalog;
    enum forebay_status status = fb_catalog_open(path, false, &catalog, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct forebay_file *file = fb_xcalloc(1, sizeof *file);
    file->catalog = catalog;
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char *name = ggml_type_name((enum ggml_type)type);
        for (size_t i = 0; name && name[i] && i + 1 < sizeof file->type_names[0]; i++) {
            file->type_names[type][i] = (char)toupper((unsigned char)name[i]);
        }
    }
    *out = file;
    return FOREBAY_OK;
}

void forebay_file_free(struct forebay_file *file)
{
    if (file) {
        fb_catalog_free(file->catalog);
        free(file);
    }
}

void forebay_file_describe(const struct forebay_file *file, struct forebay_file_info *out)
{
    const struct fb_catalog *c = file->catalog;
    *out = (struct forebay_file_info){
        .path = c->files[0]->path,
        .name = c->name,
        .arch = c->arch,
        .n_files = c->n_files,
        .n_tensors = c->n_tensors,
        .n_layer = c->n_layer,
        .n_expert = c->n_expert,
        .n_expert_used = c->n_expert_used,
        .parameters = c->parameters,
        .file_bytes = c->file_bytes,
        .tensor_bytes = c->tensor_bytes,
        .bytes_per_token = fb_catalog_bytes_per_token(c),
    };
}

void forebay_file_forget(const struct forebay_file *file)
{
    const struct fb_catalog *c = file->catalog;
    for (int i = 0; i < c->n_files; i++) {
        fb_file_drop_cache(c->files[i], 0, c->files[i]->size);
    }
}

void forebay_file_tensor(
    const struct forebay_file *file, int index, struct forebay_tensor_info *out)
{
    const struct fb_catalog *c = file->catalog;
    FB_ASSERT(index >= 0 && index < c->n_tensors);
    const struct fb_tensor *t = &c->tensors[index];
    *out = (struct forebay_tensor_info){
        .name = t->name,
        .type = file->type_names[t->type],
        .role = fb_role_name(t->role),
        .n_dims = t->n_dims,
        .bytes = t->bytes,
        .layer = t->layer,
        .n_expert = t->n_expert,
        .expert_bytes = t->expert_bytes,
        .file = c->files[t->file]->path,
        .offset = t->offset,
    };
    memcpy(out->ne, t->ne, sizeof out->ne);
}
