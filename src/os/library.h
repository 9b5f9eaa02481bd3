/* library.h - finds the directory of a loaded shared library. */
#ifndef FB_OS_LIBRARY_H
#define FB_OS_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* Directory of the file that `function` was loaded from. False if the system cannot tell. */
bool fb_library_dir(void (*function)(void), char *dir, size_t cap);

#endif
