/* file_info.c - the catalogue as programs outside see it: strata_file_* of strata.h. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/catalog.h"

#include "ggml.h"

struct strata_file {
    struct st_catalog *catalog;
    char type_names[GGML_TYPE_COUNT][16]; /* "Q4_K", where ggml says "q4_K" */
};

enum strata_status strata_file_open(
    const char *path, struct strata_file **out, struct strata_error *err)
{
    struct st_catalog *catalog;
    enum strata_status status = st_catalog_open(path, false, &catalog, err);
    if (status) {
        return status;
    }
    struct strata_file *file = st_xcalloc(1, sizeof *file);
    file->catalog = catalog;
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char *name = ggml_type_name((enum ggml_type)type);
        for (size_t i = 0; name && name[i] && i + 1 < sizeof file->type_names[0]; i++) {
            file->type_names[type][i] = (char)toupper((unsigned char)name[i]);
        }
    }
    *out = file;
    return STRATA_OK;
}

void strata_file_free(struct strata_file *file)
{
    if (file) {
        st_catalog_free(file->catalog);
        free(file);
    }
}

void strata_file_describe(const struct strata_file *file, struct strata_file_info *out)
{
    const struct st_catalog *c = file->catalog;
    *out = (struct strata_file_info){
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
        .bytes_per_token = st_catalog_bytes_per_token(c),
    };
}

void strata_file_forget(const struct strata_file *file)
{
    const struct st_catalog *c = file->catalog;
    for (int i = 0; i < c->n_files; i++) {
        st_file_drop_cache(c->files[i], 0, c->files[i]->size);
    }
}

void strata_file_tensor(const struct strata_file *file, int index, struct strata_tensor_info *out)
{
    const struct st_catalog *c = file->catalog;
    ST_ASSERT(index >= 0 && index < c->n_tensors);
    const struct st_tensor *t = &c->tensors[index];
    *out = (struct strata_tensor_info){
        .name = t->name,
        .type = file->type_names[t->type],
        .role = st_role_name(t->role),
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
