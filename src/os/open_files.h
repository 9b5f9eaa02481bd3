/* open_files.h - lists the files that this process has open. */
#ifndef FB_OS_OPEN_FILES_H
#define FB_OS_OPEN_FILES_H

#include <stdbool.h>

/* Calls `visit` with the path of each open regular file, in order of descriptors, until it returns
 * true. Skips files without a path. Returns whether a visit returned true. */
bool fb_open_files(bool (*visit)(void *user, const char *path), void *user);

#endif
