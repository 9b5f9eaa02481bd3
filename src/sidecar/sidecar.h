/*
 * sidecar.h - finds and opens a sidecar: a second copy of a model's weights, in the form they are
 * computed with, in one file beside the model. `forebay optimize` writes it; runs that stream the
 * model read it instead of the model.
 *
 *      head | index | checksums | record | record | ...        (docs/SIDECAR.md: every byte)
 *
 * A sidecar can be made again at any time, and nothing in it is used unchecked. It records the
 * model it was made from (sizes, modification times, header, samples of the content), the
 * processor, the version of llama.cpp, and the layout of each weight; used with anything else, it
 * is refused. Every unit has a checksum. Units that are missing or damaged are read from the model.
 *
 * One thread at a time.
 */
#ifndef FB_SIDECAR_SIDECAR_H
#define FB_SIDECAR_SIDECAR_H

#include "sidecar/offsets.h"

struct fb_sidecar;

/* Default path of a model's sidecar: beside the model, or in the cache directory. False when it
 * does not fit into `cap` bytes, or when there is no cache directory. */
bool fb_sidecar_path(const struct fb_catalog *catalog, bool in_cache_dir, char *path, size_t cap);

/* Whether the file begins as a sidecar. False when it cannot be read. */
bool fb_sidecar_detect(const char *path);

/* True if the file is a GGUF or a sidecar. False when it cannot be read. */
bool fb_path_holds_weights(const char *path);

/* Opens the sidecar at `path`. E_IO when it cannot be read, E_FORMAT when it is damaged or
 * incomplete, E_UNSUPPORTED when it was made for another model, processor, version or --no-repack;
 * the message says which. The catalogue must outlive it. */
enum forebay_status fb_sidecar_open(const char *path, const struct fb_sidecar_user *user,
    struct fb_sidecar **out, struct forebay_error *err);
void fb_sidecar_close(struct fb_sidecar *sidecar);

struct fb_file *fb_sidecar_file(const struct fb_sidecar *sidecar);
int fb_sidecar_n_weights(const struct fb_sidecar *sidecar);

/* The weight of a tensor; NULL when the sidecar does not have it. */
const struct fb_sidecar_weight *fb_sidecar_find(const struct fb_sidecar *sidecar, int tensor);

/* Whether `data` is the unit as it was written. A unit that was valid once is not checked again: a
 * disk does not change its contents between two reads, and the checksum costs a fifth to a quarter
 * of the read (bench/LOG.md). */
bool fb_sidecar_verify(
    struct fb_sidecar *sidecar, const struct fb_sidecar_weight *weight, int unit, const void *data);

/* Warns, once per sidecar, that this unit is damaged, with the reason. */
void fb_sidecar_warn_damaged(
    struct fb_sidecar *sidecar, const struct fb_sidecar_weight *weight, int unit, const char *why);

#endif
