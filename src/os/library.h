/* library.h - where a loaded shared library lies. */
#ifndef FB_OS_LIBRARY_H
#define FB_OS_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* Directory of the file that the function was loaded from. False if the system cannot say. */
bool fb_library_dir(void (*function)(void), char *dir, size_t cap);

#endif
