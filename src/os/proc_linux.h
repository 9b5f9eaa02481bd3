/*
 * proc_linux.h - reads small text files of /proc and /sys.
 *
 * `root` is put before every path: "" for this machine, in tests a directory that imitates one.
 */
#ifndef FB_OS_PROC_LINUX_H
#define FB_OS_PROC_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a whole text file, NUL-terminated, truncated to cap - 1 bytes. False when it cannot be
 * opened. */
bool fb_proc_text(const char *root, const char *path, char *buf, size_t cap);

/* Reads an open file again from its beginning, truncated to cap - 1 bytes. False on failure, also
 * when fd is negative. */
bool fb_proc_again(int fd, char *buf, size_t cap);

/* The number on the line whose first word is `key` (with its ':', if the file has one). */
bool fb_proc_field(const char *text, const char *key, uint64_t *out);

/* The total of the line "some" of a pressure file, in microseconds. */
bool fb_psi_total(const char *text, uint64_t *us);

#endif
