/* output_linux.c - sync_file_range, fdatasync and fadvise. */
#define _GNU_SOURCE
#include "os/output_platform.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void fb_output_start_call(int fd, uint64_t offset, uint64_t length)
{
    (void)sync_file_range(fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

int fb_output_sync_call(int fd, uint64_t offset, uint64_t length)
{
    if (fdatasync(fd)) {
        return errno;
    }
    (void)posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
    return 0;
}
