/*
 * model_files.h - for tests with model files: the shared models, files in a temporary directory,
 * and small models made here.
 */
#ifndef TESTS_MODEL_FILES_H
#define TESTS_MODEL_FILES_H

#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "ggml.h"
#include "gguf.h"

#define MAX_MODELS 256

struct model_list {
    int n;
    char *path[MAX_MODELS];
};

static inline int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static inline void list_models_in(struct model_list *list, const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d)) && list->n < MAX_MODELS) {
        const char *dot = strrchr(e->d_name, '.');
        bool first = !strstr(e->d_name, "-of-") || strstr(e->d_name, "-00001-of-");
        if (dot && strcmp(dot, ".gguf") == 0 && first) {
            char path[PATH_MAX + 256];
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            list->path[list->n++] = strdup(path);
        }
    }
    if (d) {
        closedir(d);
    }
}

/* Our own model, and all shared ones (of split sets the first file), sorted. */
static inline void find_models(struct model_list *list)
{
    static const char *const folders[] = {"models", "models/archs", "models/split"};
    const char *shared = getenv("FOREBAY_SHARED");
    list->n = 0;
    list_models_in(list, OWN_MODELS_DIR);
    for (size_t i = 0; shared && i < sizeof folders / sizeof folders[0]; i++) {
        char dir[PATH_MAX];
        snprintf(dir, sizeof dir, "%s/%s", shared, folders[i]);
        list_models_in(list, dir);
    }
    qsort(list->path, (size_t)list->n, sizeof list->path[0], compare_paths);
}

static inline void free_models(struct model_list *list)
{
    for (int i = 0; i < list->n; i++) {
        free(list->path[i]);
    }
}

/* A file of the shared folder; skips the test where it is absent. */
static inline const char *shared_file(const char *name)
{
    static char path[PATH_MAX];
    const char *shared = getenv("FOREBAY_SHARED");
    snprintf(path, sizeof path, "%s/%s", shared ? shared : "", name);
    if (!shared || access(path, R_OK)) {
        skip();
    }
    return path;
}

/* --- Files of the test -------------------------------------------------------------------- */

/* One directory per test program; call temp_remove at the end. */
static inline const char *temp_dir(void)
{
    static char dir[PATH_MAX];
    if (!dir[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(dir, sizeof dir, "%s/forebay-test-XXXXXX", base ? base : "/tmp");
        assert_non_null(mkdtemp(dir));
    }
    return dir;
}

/* Path of a file in it. The result is valid until the 64th call after it. */
static inline const char *temp_path(const char *name)
{
    static char path[64][PATH_MAX];
    static int next;
    char *p = path[next++ % 64];
    snprintf(p, PATH_MAX, "%.3000s/%.500s", temp_dir(), name);
    return p;
}

static inline int temp_remove(void **state)
{
    (void)state;
    DIR *d = opendir(temp_dir());
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] != '.') {
            remove(temp_path(e->d_name));
        }
    }
    if (d) {
        closedir(d);
    }
    return rmdir(temp_dir());
}

static inline void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static inline char *read_whole(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseeko(f, 0, SEEK_END), 0);
    *size = (size_t)ftello(f);
    rewind(f);
    char *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    fclose(f);
    return data;
}

static inline bool same_files(const char *a, const char *b)
{
    size_t n, m;
    char *x = read_whole(a, &n), *y = read_whole(b, &m);
    bool same = n == m && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

/* --- Small models ------------------------------------------------------------------------- */

/* Adds a tensor without data. */
static inline void add_tensor(
    struct gguf_context *g, const char *name, enum ggml_type type, int64_t a, int64_t b, int64_t c)
{
    struct ggml_tensor t = {.type = type, .ne = {a, b, c, 1}};
    t.nb[0] = ggml_type_size(type);
    t.nb[1] = t.nb[0] * (size_t)(a / ggml_blck_size(type));
    t.nb[2] = t.nb[1] * (size_t)b;
    t.nb[3] = t.nb[2] * (size_t)c;
    ggml_set_name(&t, name);
    gguf_add_tensor(g, &t);
}

static inline uint64_t data_size(const struct gguf_context *g)
{
    int64_t n = gguf_get_n_tensors(g);
    return n ? gguf_get_tensor_offset(g, n - 1) + gguf_get_tensor_size(g, n - 1) : 0;
}

/* Writes the header and data bytes 0, 1, ... 250, 0, 1, ... */
static inline void write_model(const struct gguf_context *g, const char *path)
{
    size_t header = gguf_get_meta_size(g), data = data_size(g);
    char *bytes = malloc(header + data);
    assert_non_null(bytes);
    gguf_get_meta_data(g, bytes);
    for (size_t i = 0; i < data; i++) {
        bytes[header + i] = (char)(i % 251);
    }
    write_file(path, bytes, header + data);
    free(bytes);
}

/* Writes a copy of a model to `to` in which the metadata `key` is the string `value`. */
static inline void copy_model_with(
    const char *from, const char *to, const char *key, const char *value)
{
    struct gguf_context *g = gguf_init_from_file(from, (struct gguf_init_params){true, NULL});
    assert_non_null(g);
    size_t size, before = gguf_get_data_offset(g);
    char *whole = read_whole(from, &size);
    gguf_set_val_str(g, key, value);
    size_t header = gguf_get_meta_size(g);
    char *bytes = malloc(header + size - before);
    assert_non_null(bytes);
    gguf_get_meta_data(g, bytes);
    memcpy(bytes + header, whole + before, size - before);
    write_file(to, bytes, header + size - before);
    gguf_free(g);
    free(whole);
    free(bytes);
}

#endif
