/*
 * output.h - a large file that is written in pieces, by one process at a time, and that another run
 * goes on with if this one is killed.
 */
#ifndef FB_OS_OUTPUT_H
#define FB_OS_OUTPUT_H

#include "forebay.h"

struct fb_output;

/* Opens the file at `path` for reading and writing, makes it if there is none, and locks it. E_USAGE
 * when another process has it locked, E_IO when it cannot be opened. */
enum forebay_status fb_output_open(
    const char *path, struct fb_output **out, struct forebay_error *err);
/* What was written stays. NULL is fine. */
void fb_output_close(struct fb_output *output);

uint64_t fb_output_size(const struct fb_output *output);
/* Shorter, or longer by zeros that take no space. */
enum forebay_status fb_output_resize(
    struct fb_output *output, uint64_t size, struct forebay_error *err);
enum forebay_status fb_output_read(struct fb_output *output, void *data, size_t length,
    uint64_t offset, struct forebay_error *err);
enum forebay_status fb_output_write(struct fb_output *output, const void *data, size_t length,
    uint64_t offset, struct forebay_error *err);

/* Starts writing the range to the disk (advice; never fails, never waits for long). */
void fb_output_start(struct fb_output *output, uint64_t offset, uint64_t length);
/* All that was written is on the disk when this returns, and of the range nothing in the page cache. */
enum forebay_status fb_output_sync(
    struct fb_output *output, uint64_t offset, uint64_t length, struct forebay_error *err);

/* Syncs, and gives the file its final name, in the place of what had it. */
enum forebay_status fb_output_commit(
    struct fb_output *output, const char *path, struct forebay_error *err);

/* The directory that the path is in. */
void fb_path_directory(const char *path, char *dir, size_t cap);

/* Bytes that this user may still write to the file system of the directory that `path` is in;
 * UINT64_MAX when the system does not say. */
uint64_t fb_disk_free(const char *path);

/* Bytes of disk that the file takes, 0 when there is none. */
uint64_t fb_path_disk_bytes(const char *path);

/* True when files can be made in the directory that `path` is in. */
bool fb_path_writable(const char *path);

/* True when there is something at `path`; when it is no regular file, which must not be replaced. */
bool fb_path_exists(const char *path);
bool fb_path_is_no_file(const char *path);
bool fb_path_is_empty(const char *path); /* a file of no bytes */

/* Removes the file. True when there was one. */
enum forebay_status fb_path_remove(const char *path, bool *removed, struct forebay_error *err);

#endif
