/*
 * catalog.h - the catalogue of a model: tensors, their roles, layers, experts and byte ranges.
 *
 * Parsed with gguf.h from a GGUF, or from the first file of a split set (the others are found by
 * name: PREFIX-00001-of-000NN.gguf, as llama-gguf-split writes them). Nothing here is specific to
 * an architecture: roles follow from the tensor names that llama.cpp uses for all architectures,
 * and a tensor with an unknown name is FB_ROLE_OTHER. Immutable once open; safe to read from any
 * thread.
 */
#ifndef FB_MODEL_CATALOG_H
#define FB_MODEL_CATALOG_H

#include "model/roles.h"
#include "os/file.h"

struct gguf_context; /* gguf.h */
struct fb_names;     /* model/names.h */

struct fb_tensor {
    const char *name;
    int type;      /* enum ggml_type */
    int n_dims;    /* as ggml counts them: without trailing ones, at least 1 */
    int64_t ne[4]; /* ne[0] is the row length */
    uint64_t bytes;
    enum fb_role role;
    int layer;             /* N of "blk.N." (or another numbered block), else -1 */
    int n_expert;          /* experts stacked along the last dimension; 0: not an expert tensor */
    uint64_t expert_bytes; /* bytes / n_expert, 0 without experts; expert e is at
                              offset + e * expert_bytes */
    int file;              /* index into fb_catalog.files */
    uint64_t offset;       /* first byte, from the start of that file */
    bool matrix;           /* name ends in ".weight" and ne[1] > 1: MUL_MAT may use it */
};

struct fb_catalog {
    int n_files;
    struct fb_file **files;
    int n_tensors;
    struct fb_tensor *tensors; /* in file order, splits one after another */
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
    struct fb_names *by_name; /* for fb_catalog_find */
};

/* Opens and parses; `want_direct` as in fb_file_open. Errors: E_IO (missing, unreadable, a
 * directory), E_FORMAT (not a GGUF, truncated, hostile sizes, a tensor outside its file, a split
 * that is missing or of another model, not the first split, duplicate names), each with the file
 * and the remedy. Reads no tensor data. */
enum forebay_status fb_catalog_open(
    const char *path, bool want_direct, struct fb_catalog **out, struct forebay_error *err);
void fb_catalog_free(struct fb_catalog *catalog);

/* Index of the tensor, or -1. O(1) on average. */
int fb_catalog_find(const struct fb_catalog *catalog, const char *name);

/* Bytes of weights that one token needs: every tensor once, n_expert_used of n_expert of an expert
 * tensor, one row of an embedding table (all of token_embd when it is also the output matrix). */
uint64_t fb_catalog_bytes_per_token(const struct fb_catalog *catalog);

/* E_IO when one of the files has changed since it was opened (fb_file_check). */
enum forebay_status fb_catalog_check_files(
    const struct fb_catalog *catalog, struct forebay_error *err);

#endif
