/* library.h - finds the directory of a loaded shared library, and functions of it that called us. */
#ifndef FB_OS_LIBRARY_H
#define FB_OS_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* Directory of the file that `function` was loaded from. False if the system cannot tell. */
bool fb_library_dir(void (*function)(void), char *dir, size_t cap);

/* Whether `part` is in the (mangled) name of one of the 24 functions that led to this call. Only
 * names that a shared library exports are known. Slow: tens of microseconds. */
bool fb_library_called_from(const char *part);

#endif
