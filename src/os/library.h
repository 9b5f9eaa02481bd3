/* library.h - where a loaded shared library lies, and which functions of it called us. */
#ifndef FB_OS_LIBRARY_H
#define FB_OS_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* Directory of the file that the function was loaded from. False if the system cannot say. */
bool fb_library_dir(void (*function)(void), char *dir, size_t cap);

/* Whether `part` is in the (mangled) name of one of the 24 functions that led to this call. Only
 * names that a shared library exports are known. Slow: tens of microseconds. */
bool fb_library_called_from(const char *part);

#endif
