/*
 * file.h - a model file opened for reading, twice: past the page cache, and through it.
 *
 * The direct descriptor (O_DIRECT on Linux, F_NOCACHE on macOS) may be missing: tmpfs and some
 * network file systems refuse it. Offsets and lengths given to a direct read must be multiples of
 * `alignment`; the io module takes care of that.
 */
#ifndef FB_OS_FILE_H
#define FB_OS_FILE_H

#include "forebay.h"

struct fb_file {
    char *path;
    int fd;             /* buffered; always valid */
    int fd_direct;      /* -1 when the file system refuses direct reads */
    uint32_t alignment; /* of offset, length and memory for fd_direct; power of two, <= 4096 */
    uint64_t size;
    uint64_t identity[4]; /* device, inode, mtime, ctime (ns) when opened */
    bool direct_refused;  /* io: direct reads began to fail with EINVAL; use fd only */
};

/* Opens a regular file. E_IO for a missing or unreadable file, a directory or a device.
 * `want_direct` false leaves fd_direct at -1. The caller closes it. */
enum forebay_status fb_file_open(
    const char *path, bool want_direct, struct fb_file **out, struct forebay_error *err);
void fb_file_close(struct fb_file *file);

/* Reads exactly `length` bytes at `offset` through the page cache; retries EINTR and short reads.
 * E_IO with the offset in the message on an error, E_FORMAT when the file ends too early. */
enum forebay_status fb_file_read(
    struct fb_file *file, void *buffer, size_t length, uint64_t offset, struct forebay_error *err);

/* What a failed read says, whichever module did the reading. fail_read: E_IO, naming the offset.
 * fail_short: E_FORMAT, the file ends before offset + length. Both return the status. */
enum forebay_status fb_file_fail_read(
    const struct fb_file *file, uint64_t offset, int errnum, struct forebay_error *err);
enum forebay_status fb_file_fail_short(
    const struct fb_file *file, uint64_t offset, uint64_t length, struct forebay_error *err);

/* Tells the system that the cached pages of this range will not be needed (advice; never fails). */
void fb_file_drop_cache(struct fb_file *file, uint64_t offset, uint64_t length);

/* E_IO when the open file has been truncated or written since fb_file_open (size, mtime, inode).
 * A file replaced by rename is fine: the open descriptor still reads the old one. ~1 us. */
enum forebay_status fb_file_check(const struct fb_file *file, struct forebay_error *err);

/* From now on writing beyond the limit of a file's size (ulimit -f) fails with EFBIG instead of ending
 * the process by a signal, unless the program handles that signal. Called before files are written. */
void fb_file_survive_limit(void);

/* Makes a sparse file of `size` bytes at `path`, truncating what was there. Writes nothing. */
enum forebay_status fb_file_make_sparse(const char *path, uint64_t size, struct forebay_error *err);

#endif
