/*
 * file_posix.c - opens, reads and checks files; file_platform.h has the functions that differ
 * between systems.
 */
#include "os/file.h"
#include "os/file_platform.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *open_hint(int errnum)
{
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
        return "Check the path.";
    case EACCES:
    case EPERM:
        return "Check the permissions of the file and of the directories above it.";
    case EMFILE:
    case ENFILE:
        return "Too many files are open: raise the limit (ulimit -n).";
    default:
        return "";
    }
}

/* Reads the first block through `fd`; 0 or an errno. Some file systems (FUSE) accept O_DIRECT and
 * then fail. */
static int try_direct(int fd)
{
    void *block = NULL;
    if (posix_memalign(&block, FB_BLOCK_BYTES, FB_BLOCK_BYTES)) {
        return ENOMEM;
    }
    ssize_t n;
    do {
        n = pread(fd, block, FB_BLOCK_BYTES, 0);
    } while (n < 0 && errno == EINTR);
    int errnum = n < 0 ? errno : n < (ssize_t)FB_BLOCK_BYTES ? EIO : 0;
    free(block);
    return errnum;
}

/* 0 if the direct descriptor is usable for `file`, else an errno. */
static int check_direct(const struct fb_file *file, int fd, uint32_t alignment)
{
    struct stat st;
    if (alignment > FB_BLOCK_BYTES) {
        return EINVAL;
    }
    if (fstat(fd, &st)) {
        return errno;
    }
    if ((uint64_t)st.st_dev != file->identity[0] || (uint64_t)st.st_ino != file->identity[1]) {
        return ESTALE; /* another file took the path between the two opens */
    }
    return file->size < FB_BLOCK_BYTES ? 0 : try_direct(fd);
}

/* Sets fd_direct and alignment, or leaves fd_direct at -1 and warns once per process. */
static void add_direct(struct fb_file *file)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    uint32_t alignment = FB_BLOCK_BYTES;
    int fd = fb_file_open_direct(file->path, &alignment);
    int errnum = fd < 0 ? errno : check_direct(file, fd, alignment);
    if (!errnum) {
        file->fd_direct = fd;
        file->alignment = alignment;
        return;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (!atomic_flag_test_and_set(&said)) {
        fb_warn("%s: the file system refuses direct reads (%s); reading through the page cache, "
                "which is slower when memory is short",
            file->path, strerror(errnum));
    }
}

/* Opens `path` and checks that it is a regular file. O_NONBLOCK: a FIFO must not hang us. */
static enum forebay_status open_regular(
    const char *path, int *out, struct stat *st, struct forebay_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, open_hint(errno), "cannot open %s", path);
    }
    int errnum = fstat(fd, st) ? errno : 0;
    if (!errnum && S_ISREG(st->st_mode) && fcntl(fd, F_SETFL, 0) == 0) {
        *out = fd;
        return FOREBAY_OK;
    }
    close(fd);
    if (errnum) {
        return fb_fail_errno(err, FOREBAY_E_IO, errnum, "", "cannot open %s", path);
    }
    bool dir = S_ISDIR(st->st_mode);
    return fb_fail(err, FOREBAY_E_IO,
        dir ? "Give the .gguf file inside it." : "Give the path of a .gguf file.",
        "cannot open %s: it is a %s, not a file", path, dir ? "directory" : "device or a pipe");
}

enum forebay_status fb_file_open(
    const char *path, bool want_direct, struct fb_file **out, struct forebay_error *err)
{
    int fd = -1;
    struct stat st;
    enum forebay_status status = open_regular(path, &fd, &st, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct fb_file *file = fb_xcalloc(1, sizeof *file);
    file->path = fb_xstrdup(path);
    file->fd = fd;
    file->fd_direct = -1;
    file->alignment = FB_BLOCK_BYTES;
    file->size = (uint64_t)st.st_size;
    file->identity[0] = (uint64_t)st.st_dev;
    file->identity[1] = (uint64_t)st.st_ino;
    file->identity[2] = fb_file_mtime(&st);
    file->identity[3] = fb_file_ctime(&st);
    if (want_direct) {
        add_direct(file);
    }
    *out = file;
    return FOREBAY_OK;
}

enum forebay_status fb_file_fail_read(
    const struct fb_file *file, uint64_t offset, int errnum, struct forebay_error *err)
{
    return fb_fail_errno(err, FOREBAY_E_IO, errnum,
        errnum == EIO
            ? "The disk reports an error: see the system's log, and copy the file elsewhere."
            : "",
        "cannot read %s at offset %" PRIu64, file->path, offset);
}

enum forebay_status fb_file_fail_short(
    const struct fb_file *file, uint64_t offset, uint64_t length, struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_FORMAT,
        "The file is probably an incomplete download or copy: fetch it again.",
        "%s: file ends early (truncated?): wanted %" PRIu64 " bytes at offset %" PRIu64, file->path,
        length, offset);
}

enum forebay_status fb_file_read(
    struct fb_file *file, void *buffer, size_t length, uint64_t offset, struct forebay_error *err)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = pread(file->fd, (char *)buffer + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fb_file_fail_read(file, offset + done, errno, err);
        }
        if (n == 0) {
            return fb_file_fail_short(file, offset, length, err);
        }
        done += (size_t)n;
    }
    return FOREBAY_OK;
}

/* --- Changes ------------------------------------------------------------------------------- */

#define WHOLE_BYTES (64 * FB_MIB)
#define HEAD_BYTES  (256 * FB_KIB) /* in which editors of metadata write */
#define SAMPLES     512            /* of 4 KiB: 0.1 s from a disk with 5000 reads/s */

/* Nothing tells a new time from a write between the samples: inotify reports both as IN_MODIFY. */
struct fb_remembered {
    uint64_t samples;         /* a hash of parts of the content */
    _Atomic uint64_t touched; /* a later mtime, of the same content */
};

static enum forebay_status mix(
    struct fb_file *file, uint64_t from, uint64_t to, uint64_t *hash, struct forebay_error *err)
{
    unsigned char piece[16 * 1024];
    enum forebay_status status = FOREBAY_OK;
    while (from < to && status == FOREBAY_OK) {
        size_t n = (size_t)fb_min(to - from, sizeof piece);
        status = fb_file_read(file, piece, n, from, err);
        *hash = status == FOREBAY_OK ? fb_hash64(piece, n, *hash) : *hash;
        from += n;
    }
    return status;
}

/* Hashes a small file, or the head of a large one and blocks spread over it. */
static enum forebay_status sample(struct fb_file *file, uint64_t *out, struct forebay_error *err)
{
    uint64_t hash = 0, size = file->size;
    if (size <= WHOLE_BYTES) {
        *out = 0;
        return mix(file, 0, size, out, err);
    }
    enum forebay_status status = mix(file, 0, HEAD_BYTES, &hash, err);
    for (uint64_t i = 1; i <= SAMPLES && status == FOREBAY_OK; i++) {
        uint64_t end = size / SAMPLES * i + size % SAMPLES * i / SAMPLES;
        status = mix(file, end - FB_BLOCK_BYTES, end, &hash, err);
    }
    *out = hash;
    return status;
}

enum forebay_status fb_file_remember(struct fb_file *file, struct forebay_error *err)
{
    struct fb_remembered *r = fb_xcalloc(1, sizeof *r);
    file->remembered = r;
    return sample(file, &r->samples, err);
}

/* True if the new mtime is all that is new. */
static bool is_only_touched(struct fb_file *file, uint64_t mtime)
{
    struct fb_remembered *r = file->remembered;
    uint64_t samples;
    if (!r) {
        return false;
    }
    if (mtime == r->touched) {
        return true;
    }
    if (sample(file, &samples, NULL) != FOREBAY_OK || samples != r->samples) {
        return false;
    }
    fb_warn("%s: its time of modification has changed, its content has not", file->path);
    r->touched = mtime;
    return true;
}

enum forebay_status fb_file_check(struct fb_file *file, struct forebay_error *err)
{
    struct stat st;
    if (fstat(file->fd, &st)) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot check %s", file->path);
    }
    /* Not ctime: it also changes when the old file of a rename loses its name. */
    uint64_t mtime = fb_file_mtime(&st);
    if ((uint64_t)st.st_size == file->size && (uint64_t)st.st_ino == file->identity[1] &&
        (mtime == file->identity[2] || is_only_touched(file, mtime))) {
        return FOREBAY_OK;
    }
    return fb_fail(err, FOREBAY_E_IO,
        "Do not write to a model that is in use: copy to a new name, then rename.",
        "%s was changed while in use", file->path);
}

/* --- Closing ------------------------------------------------------------------------------- */

void fb_file_close(struct fb_file *file)
{
    if (!file) {
        return;
    }
    if (file->fd_direct >= 0) {
        close(file->fd_direct);
    }
    free(file->remembered);
    close(file->fd);
    free(file->path);
    free(file);
}

void fb_file_survive_limit(void)
{
    struct sigaction now;
    if (sigaction(SIGXFSZ, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == SIG_DFL) {
        signal(SIGXFSZ, SIG_IGN);
    }
}

enum forebay_status fb_file_make_sparse(const char *path, uint64_t size, struct forebay_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, open_hint(errno), "cannot create %s", path);
    }
    int errnum = size > INT64_MAX ? EFBIG : ftruncate(fd, (off_t)size) ? errno : 0;
    if (close(fd) && !errnum) {
        errnum = errno;
    }
    if (errnum) {
        const char *too_large =
            "The file system cannot hold a file of this size: use another disk.";
        return fb_fail_errno(err, FOREBAY_E_IO, errnum, errnum == EFBIG ? too_large : "",
            "cannot make %s %" PRIu64 " bytes long", path, size);
    }
    return FOREBAY_OK;
}
