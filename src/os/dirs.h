/* dirs.h - where a program keeps what it may lose. */
#ifndef FB_OS_DIRS_H
#define FB_OS_DIRS_H

#include <stdio.h>

#include "forebay.h"

/* Writes the path of `name` ("profile.json", "models/x.json") in this user's cache directory for
 * Forebay, and makes the directories it needs: $FOREBAY_CACHE_DIR, else the system's usual place.
 * False when there is none or it cannot be made: then nothing is kept. */
bool fb_cache_path(const char *name, char *path, size_t cap);

/* Opens a regular file for reading. NULL, and errno (ENOENT: there is none), for one that cannot be
 * read or is of another kind: a FIFO would block for ever. The caller closes it. */
FILE *fb_file_open_text(const char *path);

/* Replaces the file at `path` by `text` as a whole: nobody ever reads half of it. Only its owner
 * can access it. False on failure. */
bool fb_file_replace(const char *path, const char *text, size_t length);

#endif
