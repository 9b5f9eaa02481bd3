/*
 * sidecar.h - a model's weights once more, in the form they are computed with: one file beside the
 * model, written by `forebay optimize`, read instead of it.
 *
 *      head | index | checksums | record | record | ...        (docs/SIDECAR.md has every byte)
 *
 *      record of an expert     [ gate ....... | up ......... | down ....... ]   each part begins at a
 *      record of a dense weight [ weight .................................. ]   multiple of 4096
 *
 * A sidecar is a copy that can always be made again, and it is never trusted further than it can be
 * checked: it says which model it was made from (sizes, times of modification, header, samples of the
 * content), for which processor and which llama.cpp, and in which layout each weight is. Who opens it
 * with anything else is refused; every unit has a checksum. What is not in it, or not right, is read
 * from the model.
 *
 * Not safe for several threads.
 */
#ifndef FB_SIDECAR_SIDECAR_H
#define FB_SIDECAR_SIDECAR_H

#include "model/weights.h"

#define FB_SIDECAR_ALIGN 4096u

/* Who makes or uses a sidecar. */
struct fb_sidecar_user {
    const struct fb_catalog *catalog;
    bool repack;
    const char *cpu;   /* fb_cpu_name */
    const char *llama; /* version of llama.cpp */
};

/* How a weight is laid out. The names alone do not say it all (the same layout interleaves 4, 8 or
 * 16 rows on different processors), so there is a probe: the checksum of what becomes of some
 * made-up rows of that type. */
struct fb_sidecar_form {
    char layout[32]; /* buffer type that repacked it; "": as stored */
    uint64_t probe;  /* 0 as stored */
};

/* A weight in the sidecar: unit u has unit_bytes at offset + u * step, and checksum number
 * first_sum + u * sum_step. */
struct fb_sidecar_weight {
    int tensor; /* index into the catalogue */
    int n_units;
    uint64_t unit_bytes;
    uint64_t offset, step;
    uint64_t first_sum, sum_step;
    struct fb_sidecar_form form;
};

struct fb_sidecar;

/* Where the sidecar of a model is looked for, and made: beside the model, then (`kept`) in the cache
 * directory. False when there is no such place. */
bool fb_sidecar_path(const struct fb_catalog *catalog, bool kept, char *path, size_t cap);

/* Whether the file begins as sidecars do. False when it cannot be read. */
bool fb_sidecar_is_one(const char *path);

/* Opens the sidecar at `path`. E_IO when it cannot be read, E_FORMAT when it is damaged or not
 * complete, E_UNSUPPORTED when it is of another model, processor, version or layout; the message says
 * which. The catalogue must outlive it. */
enum forebay_status fb_sidecar_open(const char *path, const struct fb_sidecar_user *user,
    struct fb_sidecar **out, struct forebay_error *err);
void fb_sidecar_close(struct fb_sidecar *sidecar);

struct fb_file *fb_sidecar_file(const struct fb_sidecar *sidecar);
int fb_sidecar_n_weights(const struct fb_sidecar *sidecar);

/* The tensor's weight; NULL when it is not in the sidecar. */
const struct fb_sidecar_weight *fb_sidecar_find(const struct fb_sidecar *sidecar, int tensor);

/* Whether `data` is the unit as it was written. Computed once for each unit that is right: a disk
 * does not change what it holds between two reads, and computing costs a fifth to a quarter of reading
 * (bench/LOG.md). */
bool fb_sidecar_right(
    struct fb_sidecar *sidecar, const struct fb_sidecar_weight *weight, int unit, const void *data);

/* Says, once, that the sidecar is damaged, and where. */
void fb_sidecar_complain(
    struct fb_sidecar *sidecar, const struct fb_sidecar_weight *weight, int unit, const char *why);

/* What can be checked of a model without reading it all: its headers and some blocks of each file,
 * in one checksum. */
enum forebay_status fb_sidecar_fingerprint(
    const struct fb_catalog *catalog, uint64_t *out, struct forebay_error *err);

#endif
