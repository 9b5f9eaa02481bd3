/*
 * output.h - a large file that is written in pieces, by one process at a time, and that a later run
 * can continue if this one is killed. Also small questions about paths. One thread at a time.
 */
#ifndef FB_OS_OUTPUT_H
#define FB_OS_OUTPUT_H

#include "forebay.h"

struct fb_output;

/* Opens the file at `path` for reading and writing, creates it if it does not exist, and locks it.
 * E_USAGE when another process has locked it, E_IO when it cannot be opened. */
enum forebay_status fb_output_open(
    const char *path, struct fb_output **out, struct forebay_error *err);
/* Closes and unlocks; the file stays. NULL is fine. */
void fb_output_close(struct fb_output *output);

uint64_t fb_output_size(const struct fb_output *output);
/* Truncates the file, or extends it by a hole. */
enum forebay_status fb_output_resize(
    struct fb_output *output, uint64_t size, struct forebay_error *err);
enum forebay_status fb_output_read(struct fb_output *output, void *data, size_t length,
    uint64_t offset, struct forebay_error *err);
enum forebay_status fb_output_write(struct fb_output *output, const void *data, size_t length,
    uint64_t offset, struct forebay_error *err);

/* Starts writing the range to the disk. Advice: never fails, never blocks for long. */
void fb_output_start(struct fb_output *output, uint64_t offset, uint64_t length);
/* Waits until all written data is on the disk, then drops the range from the page cache. */
enum forebay_status fb_output_sync(
    struct fb_output *output, uint64_t offset, uint64_t length, struct forebay_error *err);

/* Syncs and renames the file to its final `path`, replacing a file of that name. */
enum forebay_status fb_output_commit(
    struct fb_output *output, const char *path, struct forebay_error *err);

/* The directory of the path. */
void fb_path_directory(const char *path, char *dir, size_t cap);

/* Bytes that this user may still write to the file system that holds the directory of `path`;
 * UINT64_MAX when the system does not tell. */
uint64_t fb_disk_free(const char *path);

/* Bytes of disk that the file occupies; 0 when it does not exist. */
uint64_t fb_path_disk_bytes(const char *path);

/* True when files can be created in the directory of `path`. */
bool fb_path_writable(const char *path);

/* True when something exists at `path`. */
bool fb_path_exists(const char *path);
/* True when something exists at `path` that is not a regular file: it must not be replaced. */
bool fb_path_is_no_file(const char *path);
bool fb_path_is_empty(const char *path); /* a file of no bytes */

/* Removes the file; *removed tells whether there was one. E_IO when it cannot be removed, or is a
 * directory. */
enum forebay_status fb_path_remove(const char *path, bool *removed, struct forebay_error *err);

#endif
