/* dirs.h - where a program keeps what it may lose. */
#ifndef ST_OS_DIRS_H
#define ST_OS_DIRS_H

#include "strata.h"

/* Writes the path of `name` ("profile.json", "models/x.json") in this user's cache directory for
 * Strata, and makes the directories it needs: $STRATA_CACHE_DIR, else the system's usual place.
 * False when there is none or it cannot be made: then nothing is kept. */
bool st_cache_path(const char *name, char *path, size_t cap);

/* Replaces the file at `path` by `text` as a whole: nobody ever reads half of it. False on failure. */
bool st_file_replace(const char *path, const char *text, size_t length);

#endif
