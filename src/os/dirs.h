/* dirs.h - the cache directory, for files that may be deleted at any time. */
#ifndef FB_OS_DIRS_H
#define FB_OS_DIRS_H

#include <stdio.h>

#include "forebay.h"

/* Writes the path of `name` ("profile.json", "models/x.json") in this user's cache directory for
 * Forebay, and creates the directories that lead to it. The cache directory is $FOREBAY_CACHE_DIR,
 * else $XDG_CACHE_HOME/forebay, else ~/.cache/forebay (macOS: ~/Library/Caches/forebay). False when
 * there is none or it cannot be created; the caller then caches nothing. */
bool fb_cache_path(const char *name, char *path, size_t cap);

/* Opens a regular file for reading; NULL for one that is missing or another kind (a FIFO would
 * block for ever). The caller closes it. */
FILE *fb_file_open_text(const char *path);

#endif
