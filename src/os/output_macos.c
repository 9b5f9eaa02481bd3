/* output_macos.c - fsync; macOS has no advice for a range of the page cache. */
#include "os/output_platform.h"

#include <errno.h>
#include <unistd.h>

void fb_output_start_call(int fd, uint64_t offset, uint64_t length)
{
    (void)fd;
    (void)offset;
    (void)length;
}

int fb_output_sync_call(int fd, uint64_t offset, uint64_t length)
{
    (void)offset;
    (void)length;
    return fsync(fd) ? errno : 0;
}
