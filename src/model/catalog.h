/*
 * catalog.h - what is in a model file: tensors, their roles, layers, experts and byte ranges.
 *
 * Parsed with gguf.h from a GGUF, or from the first file of a split set (the others are found by
 * name: PREFIX-00001-of-000NN.gguf, as llama-gguf-split makes them). Nothing here is specific to an
 * architecture: roles follow from the tensor names that llama.cpp uses for all of them, and a
 * tensor whose name says nothing is ST_ROLE_OTHER. Immutable once open; safe to read from any
 * thread.
 */
#ifndef ST_MODEL_CATALOG_H
#define ST_MODEL_CATALOG_H

#include "os/file.h"

struct gguf_context; /* gguf.h */
struct st_names;     /* model/names.h */

#define ST_ROLE_LIST(X)                                                                            \
    X(EMBEDDING, "embedding") /* token, position and type embeddings */                            \
    X(NORM, "norm")                                                                                \
    X(ATTENTION, "attention") /* also SSM, RWKV and other sequence mixers */                       \
    X(ROUTER, "router")                                                                            \
    X(EXPERT_GATE, "expert gate")                                                                  \
    X(EXPERT_UP, "expert up")                                                                      \
    X(EXPERT_DOWN, "expert down")                                                                  \
    X(EXPERT_GATE_UP, "expert gate_up")                                                            \
    X(EXPERT_AUX, "expert bias or scale")                                                          \
    X(SHARED_EXPERT, "shared expert")                                                              \
    X(DENSE_FFN, "dense ffn")                                                                      \
    X(OUTPUT, "output")                                                                            \
    X(OTHER, "other")

enum st_role {
#define ST_ROLE_ENUM(name, text) ST_ROLE_##name,
    ST_ROLE_LIST(ST_ROLE_ENUM)
#undef ST_ROLE_ENUM
        ST_ROLE_COUNT
};

const char *st_role_name(enum st_role role);

struct st_tensor {
    const char *name;
    int type;      /* enum ggml_type */
    int n_dims;    /* as ggml counts them: trailing ones dropped, at least 1 */
    int64_t ne[4]; /* ne[0] is the row length */
    uint64_t bytes;
    enum st_role role;
    int layer;             /* N of "blk.N." (or another numbered block), else -1 */
    int n_expert;          /* experts stacked along the last dimension; 0: not an expert tensor */
    uint64_t expert_bytes; /* bytes / n_expert, 0 without experts; expert e is at
                              offset + e * expert_bytes */
    int file;              /* index into st_catalog.files */
    uint64_t offset;       /* first byte, from the start of that file */
    bool matrix;           /* name ends in ".weight" and ne[1] > 1: something MUL_MAT may use */
};

struct st_catalog {
    int n_files;
    struct st_file **files;
    int n_tensors;
    struct st_tensor *tensors; /* in file order, splits one after another */
    struct gguf_context *meta; /* of the first file: all key-values */
    char arch[64];
    char name[128];      /* general.name, or "" */
    int n_layer;         /* ARCH.block_count */
    int n_expert;        /* ARCH.expert_count, 0 for dense models */
    int n_expert_used;   /* ARCH.expert_used_count */
    uint64_t file_bytes; /* all files */
    uint64_t tensor_bytes;
    uint64_t parameters;
    char *name_text;          /* owns the tensor names */
    struct st_names *by_name; /* for st_catalog_find */
};

/* Opens and parses. `want_direct` as in st_file_open. Errors: E_IO (missing, unreadable, a
 * directory), E_FORMAT (not a GGUF, truncated, hostile sizes, a tensor outside its file, a missing
 * or foreign split, not the first split, duplicate names), each naming the file and the remedy.
 * Never reads tensor data. */
enum strata_status st_catalog_open(
    const char *path, bool want_direct, struct st_catalog **out, struct strata_error *err);
void st_catalog_free(struct st_catalog *catalog);

/* Index of the tensor, or -1. O(1) on average. */
int st_catalog_find(const struct st_catalog *catalog, const char *name);

/* Bytes of weights one token touches when nothing is shared between tokens: every tensor once,
 * n_expert_used of n_expert for expert tensors, one row of an embedding table (all of
 * token_embd when it is also the output matrix). */
uint64_t st_catalog_bytes_per_token(const struct st_catalog *catalog);

/* E_FORMAT when the key-values are such that llama.cpp would abort the process. st_vgguf_open
 * asks. */
enum strata_status st_catalog_check_runnable(
    const struct st_catalog *catalog, struct strata_error *err);

/* E_IO when any of the files changed since it was opened (st_file_check). */
enum strata_status st_catalog_check_files(
    const struct st_catalog *catalog, struct strata_error *err);

#endif
