/* dirs.h - where a program keeps what it may lose. */
#ifndef FB_OS_DIRS_H
#define FB_OS_DIRS_H

#include "forebay.h"

/* Writes the path of `name` ("profile.json", "models/x.json") in this user's cache directory for
 * Forebay, and makes the directories it needs: $FOREBAY_CACHE_DIR, else the system's usual place.
 * False when there is none or it cannot be made: then nothing is kept. */
bool fb_cache_path(const char *name, char *path, size_t cap);

#endif
