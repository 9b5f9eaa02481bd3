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

/* A descriptor that reports writes to the open file `fd` (not those through mappings, nor those of
 * other machines); -1: the system cannot. The caller closes it. */
int fb_file_watch_writes(int fd);
/* True if a write was reported since the last call. */
bool fb_file_was_written(int watch);

#endif
