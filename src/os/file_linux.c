/* file_linux.c - O_DIRECT, with the alignment that the kernel reports (statx, Linux 6.1). */
#define _GNU_SOURCE
#include "os/file.h"
#include "os/file_platform.h"

#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* 0: the kernel reports that this file cannot be read directly. */
static uint32_t direct_alignment(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN)) {
        uint32_t mem = stx.stx_dio_mem_align, offset = stx.stx_dio_offset_align;
        return mem > offset ? mem : offset;
    }
#else
    (void)fd;
#endif
    return FB_BLOCK_BYTES; /* enough for every block device and file system so far */
}

int fb_file_open_direct(const char *path, uint32_t *alignment)
{
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    *alignment = direct_alignment(fd);
    if (*alignment == 0) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

uint64_t fb_file_mtime(const struct stat *st)
{
    return (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
}

uint64_t fb_file_ctime(const struct stat *st)
{
    return (uint64_t)st->st_ctim.tv_sec * 1000000000u + (uint64_t)st->st_ctim.tv_nsec;
}

void fb_file_drop_cache(struct fb_file *file, uint64_t offset, uint64_t length)
{
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
}
