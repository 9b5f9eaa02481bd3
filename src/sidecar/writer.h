/*
 * writer.h - writes a sidecar, in an order that survives being killed at any moment.
 *
 *      NAME.partial    head (marked incomplete) and index first; then the units in order; a unit's
 *                      checksum is written when the unit is on the disk
 *      NAME            NAME.partial is renamed to it when complete
 *
 * A run that finds a NAME.partial with exactly the head and the index that it would write continues
 * after the last unit with a checksum. The NAME.partial of another sidecar is overwritten; any
 * other file is refused. One thread at a time.
 */
#ifndef FB_SIDECAR_WRITER_H
#define FB_SIDECAR_WRITER_H

#include "sidecar/offsets.h"

struct fb_sidecar_writer;

/* Path of the file while it is incomplete. False when it is too long. */
bool fb_sidecar_partial_path(const char *path, char *partial, size_t cap);

/* E_USAGE if the file at `path` must not be replaced: it is neither a sidecar, complete or not, nor
 * empty, as a run that was killed at its start leaves it. */
enum forebay_status fb_sidecar_check_path(const char *path, struct forebay_error *err);

/* Starts a file or continues one. E_NOFIT when the disk has too little space; E_USAGE when another
 * process is writing it, or when the partial file is not a sidecar; E_IO. The contents must outlive
 * the writer. */
enum forebay_status fb_sidecar_writer_new(const char *path, const struct fb_sidecar_user *user,
    const struct fb_sidecar_contents *contents, struct fb_sidecar_writer **out,
    struct forebay_error *err);

/* Number of the next unit to write; n_units of the contents when none is left. */
uint64_t fb_sidecar_writer_next(const struct fb_sidecar_writer *writer);

/* Writes the next unit: unit_bytes of its weight. */
enum forebay_status fb_sidecar_writer_put(
    struct fb_sidecar_writer *writer, const void *data, struct forebay_error *err);

/* After the last unit: marks the file as complete and gives it its name. */
enum forebay_status fb_sidecar_writer_finish(
    struct fb_sidecar_writer *writer, struct forebay_error *err);

/* Bytes written between two syncs. Tests lower it. */
extern uint64_t fb_sidecar_checkpoint_bytes;

/* Without finish, NAME.partial stays for another run. NULL is fine. */
void fb_sidecar_writer_free(struct fb_sidecar_writer *writer);

#endif
