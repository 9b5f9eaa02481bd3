/*
 * output_posix.c - see output.h. The lock is flock(2): it is released when the process ends,
 * however it ends. output_platform.h has the functions that differ between systems.
 */
#include "os/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "os/file.h"
#include "os/output_platform.h"

struct fb_output {
    int fd;
    char *path;
};

static const char *hint_for(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return "Free some space and run the command again: it continues where it stopped. Or use "
               "another disk.";
    case EFBIG:
        return "The file system, or ulimit -f, has a smaller limit for one file: raise it, or use "
               "another disk.";
    case EACCES:
    case EPERM:
    case EROFS:
        return "Check the permissions of the directory, or write elsewhere.";
    default:
        return "";
    }
}

static enum forebay_status failed(
    const struct fb_output *o, int errnum, const char *what, struct forebay_error *err)
{
    return fb_fail_errno(
        err, FOREBAY_E_IO, errnum, hint_for(errnum), "cannot %s %s", what, o->path);
}

enum forebay_status fb_output_open(
    const char *path, struct fb_output **out, struct forebay_error *err)
{
    struct stat st;
    fb_file_survive_limit();
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
    if (fd < 0) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, hint_for(errno), "cannot write %s", path);
    }
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return fb_fail(err, FOREBAY_E_IO, "Choose another name.", "%s is not a file", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        int errnum = errno;
        close(fd);
        if (errnum == EWOULDBLOCK) {
            return fb_fail(err, FOREBAY_E_USAGE, "Wait until it is done.",
                "another process is writing %s", path);
        }
        return fb_fail_errno(err, FOREBAY_E_IO, errnum, "", "cannot lock %s", path);
    }
    struct fb_output *o = fb_xcalloc(1, sizeof *o);
    o->fd = fd;
    o->path = fb_xstrdup(path);
    *out = o;
    return FOREBAY_OK;
}

void fb_output_close(struct fb_output *o)
{
    if (o) {
        close(o->fd);
        free(o->path);
        free(o);
    }
}

uint64_t fb_output_size(const struct fb_output *o)
{
    struct stat st;
    return fstat(o->fd, &st) ? 0 : (uint64_t)st.st_size;
}

enum forebay_status fb_output_resize(struct fb_output *o, uint64_t size, struct forebay_error *err)
{
    int errnum = size > INT64_MAX ? EFBIG : ftruncate(o->fd, (off_t)size) ? errno : 0;
    return errnum ? failed(o, errnum, "resize", err) : FOREBAY_OK;
}

enum forebay_status fb_output_read(
    struct fb_output *o, void *data, size_t length, uint64_t offset, struct forebay_error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(o->fd, (char *)data + done, length - done, (off_t)(offset + done));
        if (n == 0) {
            return fb_fail(err, FOREBAY_E_FORMAT, "", "%s ends early", o->path);
        }
        if (n < 0 && errno != EINTR) {
            return failed(o, errno, "read", err);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return FOREBAY_OK;
}

enum forebay_status fb_output_write(struct fb_output *o, const void *data, size_t length,
    uint64_t offset, struct forebay_error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(o->fd, (const char *)data + done, length - done, (off_t)(offset + done));
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return failed(o, n == 0 ? ENOSPC : errno, "write", err);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return FOREBAY_OK;
}

void fb_output_start(struct fb_output *o, uint64_t offset, uint64_t length)
{
    fb_output_start_call(o->fd, offset, length);
}

enum forebay_status fb_output_sync(
    struct fb_output *o, uint64_t offset, uint64_t length, struct forebay_error *err)
{
    int errnum = fb_output_sync_call(o->fd, offset, length);
    return errnum ? failed(o, errnum, "write", err) : FOREBAY_OK;
}

void fb_path_directory(const char *path, char *dir, size_t cap)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    snprintf(dir, cap, "%.*s", (int)n, path);
    if (!dir[0]) {
        snprintf(dir, cap, "%s", slash ? "/" : ".");
    }
}

/* After a rename, the new name survives a power cut only if the directory has been synced, too. */
static void sync_directory(const char *path)
{
    char dir[4096];
    fb_path_directory(path, dir, sizeof dir);
    int fd = open(dir, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

enum forebay_status fb_output_commit(
    struct fb_output *o, const char *path, struct forebay_error *err)
{
    if (fsync(o->fd)) {
        return failed(o, errno, "write", err);
    }
    if (rename(o->path, path)) {
        return fb_fail_errno(
            err, FOREBAY_E_IO, errno, hint_for(errno), "cannot rename %s to %s", o->path, path);
    }
    sync_directory(path);
    return FOREBAY_OK;
}

uint64_t fb_disk_free(const char *path)
{
    char dir[4096];
    struct statvfs fs;
    fb_path_directory(path, dir, sizeof dir);
    return statvfs(dir, &fs) ? UINT64_MAX : (uint64_t)fs.f_bavail * fs.f_frsize;
}

uint64_t fb_path_disk_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

bool fb_path_writable(const char *path)
{
    char dir[4096];
    fb_path_directory(path, dir, sizeof dir);
    return access(dir, W_OK | X_OK) == 0;
}

bool fb_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool fb_path_is_no_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

bool fb_path_is_empty(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_size == 0;
}

enum forebay_status fb_path_remove(const char *path, bool *removed, struct forebay_error *err)
{
    struct stat st;
    *removed = false;
    if (lstat(path, &st)) {
        return FOREBAY_OK;
    }
    if (S_ISDIR(st.st_mode) || unlink(path)) {
        return fb_fail_errno(err, FOREBAY_E_IO, S_ISDIR(st.st_mode) ? EISDIR : errno,
            hint_for(errno), "cannot remove %s", path);
    }
    *removed = true;
    return FOREBAY_OK;
}
