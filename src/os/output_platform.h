/* output_platform.h - functions that output_posix.c needs from each system (output_linux.c,
 * output_macos.c). */
#ifndef FB_OS_OUTPUT_PLATFORM_H
#define FB_OS_OUTPUT_PLATFORM_H

#include <stdint.h>

/* Starts writing a range of the file to the disk, without waiting for it. Advice. */
void fb_output_start_call(int fd, uint64_t offset, uint64_t length);

/* Waits until all of the file's data is on the disk, then drops the range from the page cache. 0 or
 * an errno. */
int fb_output_sync_call(int fd, uint64_t offset, uint64_t length);

#endif
