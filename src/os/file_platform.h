/*
 * file_platform.h - functions that file_posix.c needs from each system (file_linux.c,
 * file_macos.c).
 */
#ifndef FB_OS_FILE_PLATFORM_H
#define FB_OS_FILE_PLATFORM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* A second descriptor on the file at `path` that reads past the page cache, or -1 with errno.
 * *alignment is set on success: a power of two. */
int fb_file_open_direct(const char *path, uint32_t *alignment);

/* Times of modification and of status change, in nanoseconds since the epoch. */
uint64_t fb_file_mtime(const struct stat *st);
uint64_t fb_file_ctime(const struct stat *st);

#endif
