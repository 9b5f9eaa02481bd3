/*
 * writer.h - writing a sidecar, in an order that survives being killed at any moment.
 *
 *      NAME.partial    head (not complete) and index first; then the units one after another, and behind
 *                      them, when they are on the disk, their checksums
 *      NAME            what NAME.partial is called when it is complete
 *
 * A run that finds a NAME.partial with exactly the head and the index that it would write itself goes
 * on behind the last unit that has a checksum. Another sidecar's is written over; a file that is no
 * sidecar's is refused.
 */
#ifndef FB_SIDECAR_WRITER_H
#define FB_SIDECAR_WRITER_H

#include "sidecar/format.h"

struct fb_sidecar_writer;

/* Path of the file while it is not complete. */
bool fb_sidecar_partial_path(const char *path, char *partial, size_t cap);

/* E_USAGE if a file at `path` is neither empty nor a sidecar, finished or not, and so must not be
 * replaced. */
enum forebay_status fb_sidecar_check_path(const char *path, struct forebay_error *err);

/* Begins, or goes on. E_NOFIT when the disk has too little space; E_USAGE when another process is
 * writing it, or the file is no sidecar's; E_IO. The layout must outlive the writer. */
enum forebay_status fb_sidecar_writer_new(const char *path, const struct fb_sidecar_user *user,
    const struct fb_sidecar_layout *layout, struct fb_sidecar_writer **out,
    struct forebay_error *err);

/* The next unit to write, n_units of the layout when none is left. */
uint64_t fb_sidecar_writer_next(const struct fb_sidecar_writer *writer);

/* Writes the next unit. */
enum forebay_status fb_sidecar_writer_put(
    struct fb_sidecar_writer *writer, const void *data, struct forebay_error *err);

/* After the last unit: the file is complete and takes its name. */
enum forebay_status fb_sidecar_writer_finish(
    struct fb_sidecar_writer *writer, struct forebay_error *err);

/* How much is written between two syncs. Tests lower it. */
extern uint64_t fb_sidecar_checkpoint_bytes;

/* Without finish, what was written stays for another run. */
void fb_sidecar_writer_free(struct fb_sidecar_writer *writer);

#endif
