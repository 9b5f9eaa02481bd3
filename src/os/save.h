/*
 * save.h - writes small files without damaging others.
 *
 * A path that a user gives may be anything: a link, a link to a file that does not exist yet, a
 * directory, a device, a pipe, or a file that this process reads. These functions follow links to
 * the file at their end, and replace nothing but regular files.
 */
#ifndef FB_OS_SAVE_H
#define FB_OS_SAVE_H

#include <stdio.h>

#include "forebay.h"

/* Follows the links at the end of `path`, also to a file that does not exist. False, with errno, if
 * they form a circle or do not fit into `cap` bytes. */
bool fb_path_resolve(const char *path, char *out, size_t cap);

/* True if both paths lead to the same regular file, or would create the same one. */
bool fb_path_same_file(const char *a, const char *b);

/* 0 if a file can be written at `path`, else an errno: EISDIR, EACCES, ... Changes nothing. */
int fb_path_check_output(const char *path);

/* Creates an empty file with a name that no other file has, "PATH.NUMBER.tmp", and stores the name
 * in `temporary`. False, with errno, on failure. */
bool fb_temporary_create(const char *path, char *temporary, size_t cap);

/* Opens the file for writing from its start. If it is where standard output or standard error goes,
 * continues there. NULL with errno. A FIFO blocks until someone reads it. */
FILE *fb_save_open(const char *path);

/* Replaces the content of the file. A regular file is replaced atomically, keeping its mode: no
 * reader ever sees half of it, and a failure leaves it unchanged. False, with errno, on failure. */
bool fb_file_replace(const char *path, const char *text, size_t length);

/* Replaces whatever is at the path, a FIFO included, atomically by a file that only this user may
 * read (0600): for the cache directory. False, with errno, on failure. */
bool fb_private_replace(const char *path, const char *text, size_t length);

/* True if standard input is a pipe, a socket or a regular file; false for a terminal, a device such
 * as /dev/null, and if it is closed. */
bool fb_stdin_is_given(void);

/* Adds text to a file that only this user may read (0600), and creates it if there is none. */
bool fb_private_append(const char *path, const char *text, size_t length);

#endif
