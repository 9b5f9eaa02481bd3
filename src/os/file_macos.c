/*
 * file_macos.c - F_NOCACHE: reads that leave nothing in the unified buffer cache.
 *
 * macOS requires no alignment, but unaligned F_NOCACHE reads go through the cache anyway. The
 * aligned envelopes of the io module avoid that.
 */
#include "os/file.h"
#include "os/file_platform.h"

#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int fb_file_open_direct(const char *path, uint32_t *alignment)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    if (fcntl(fd, F_NOCACHE, 1) == -1) {
        int errnum = errno;
        close(fd);
        errno = errnum;
        return -1;
    }
    (void)fcntl(fd, F_RDAHEAD, 0);
    *alignment = FB_BLOCK_BYTES;
    return fd;
}

uint64_t fb_file_mtime(const struct stat *st)
{
    return (uint64_t)st->st_mtimespec.tv_sec * 1000000000u + (uint64_t)st->st_mtimespec.tv_nsec;
}

uint64_t fb_file_ctime(const struct stat *st)
{
    return (uint64_t)st->st_ctimespec.tv_sec * 1000000000u + (uint64_t)st->st_ctimespec.tv_nsec;
}

/* macOS has no such advice for a range; pages read with F_NOCACHE are not cached anyway. */
void fb_file_drop_cache(struct fb_file *file, uint64_t offset, uint64_t length)
{
    (void)file;
    (void)offset;
    (void)length;
}
