/* memory_linux.h - the part of memory_linux.c that tests call with a `root` of their own. */
#ifndef FB_OS_MEMORY_LINUX_H
#define FB_OS_MEMORY_LINUX_H

#include "os/memory.h"

/* As fb_memory_state, for the files below `root` (proc_linux.h). */
void fb_memory_state_at(const char *root, struct fb_memory_state *out);

#endif
