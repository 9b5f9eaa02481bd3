/*
 * file.h - a model file opened for reading, twice: past the page cache, and through it.
 *
 * The direct descriptor (O_DIRECT on Linux, F_NOCACHE on macOS) may be missing: tmpfs and some
 * network file systems refuse it. Offset, length and address of a direct read must be multiples of
 * `alignment`; the io module ensures this. Several threads may call
 * fb_file_read and fb_file_check at a time.
 */
#ifndef FB_OS_FILE_H
#define FB_OS_FILE_H

#include "forebay.h"

struct fb_remembered;

struct fb_file {
    char *path;
    int fd;             /* buffered; always valid */
    int fd_direct;      /* -1 when the file system refuses direct reads */
    uint32_t alignment; /* for fd_direct: a power of two, at most FB_BLOCK_BYTES */
    uint64_t size;
    uint64_t identity[4]; /* device, inode, mtime, ctime (ns) when opened */
    bool direct_refused;  /* set by io when direct reads fail with EINVAL: use fd only */
    struct fb_remembered *remembered; /* by fb_file_remember; NULL: nothing */
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

/* Report a failed read, whichever module read. fail_read: E_IO, with the offset. fail_short:
 * E_FORMAT, because the file ends before offset + length. Both return the status. */
enum forebay_status fb_file_fail_read(
    const struct fb_file *file, uint64_t offset, int errnum, struct forebay_error *err);
enum forebay_status fb_file_fail_short(
    const struct fb_file *file, uint64_t offset, uint64_t length, struct forebay_error *err);

/* Advises the system to drop the cached pages of this range. Never fails. */
void fb_file_drop_cache(struct fb_file *file, uint64_t offset, uint64_t length);

/* Remembers the content, so that fb_file_check can tell a new time from new content: a hash of
 * files up to 64 MiB; of larger ones, of the head and of samples spread over the file. Errors as
 * fb_file_read. Once, before other threads use the file. */
enum forebay_status fb_file_remember(struct fb_file *file, struct forebay_error *err);

/* E_IO when the open file has been truncated or written since fb_file_open: its size has changed,
 * or its mtime and, if it is remembered, what is remembered of its content. A file that was
 * replaced by a rename is fine: the descriptor still reads the old one. Takes 1 us, and after each
 * change of the mtime the time to read the samples. */
enum forebay_status fb_file_check(struct fb_file *file, struct forebay_error *err);

/* From now on writing beyond the limit of a file's size (ulimit -f) fails with EFBIG instead of
 * ending the process by a signal, unless the program handles that signal. Called before files are
 * written. */
void fb_file_survive_limit(void);

/* Creates a sparse file of `size` bytes at `path`, or truncates the existing one to zeros. Writes
 * no data. */
enum forebay_status fb_file_make_sparse(const char *path, uint64_t size, struct forebay_error *err);

#endif
