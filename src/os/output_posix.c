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
#include "os/output_platform.h"

struct st_output {
    int fd;
    char *path;
};

static const char *hint_for(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return "Free some space and run it again, it goes on where it stopped; or use another "
               "disk.";
    case EFBIG:
        return "This file system has a smaller limit for one file: use another disk.";
    case EACCES:
    case EPERM:
    case EROFS:
        return "Check the permissions of the directory, or write elsewhere.";
    default:
        return "";
    }
}

static enum strata_status failed(
    const struct st_output *o, int errnum, const char *what, struct strata_error *err)
{
    return st_fail_errno(err, STRATA_E_IO, errnum, hint_for(errnum), "cannot %s %s", what, o->path);
}

enum strata_status st_output_open(
    const char *path, struct st_output **out, struct strata_error *err)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
    if (fd < 0) {
        return st_fail_errno(err, STRATA_E_IO, errno, hint_for(errno), "cannot write %s", path);
    }
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return st_fail(err, STRATA_E_IO, "Choose another name.", "%s is not a file", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        int errnum = errno;
        close(fd);
        if (errnum == EWOULDBLOCK) {
            return st_fail(err, STRATA_E_USAGE, "Wait until it is done.",
                "another process is writing %s", path);
        }
        return st_fail_errno(err, STRATA_E_IO, errnum, "", "cannot lock %s", path);
    }
    struct st_output *o = st_xcalloc(1, sizeof *o);
    o->fd = fd;
    o->path = st_xstrdup(path);
    *out = o;
    return STRATA_OK;
}

void st_output_close(struct st_output *o)
{
    if (o) {
        close(o->fd);
        free(o->path);
        free(o);
    }
}

uint64_t st_output_size(const struct st_output *o)
{
    struct stat st;
    return fstat(o->fd, &st) ? 0 : (uint64_t)st.st_size;
}

enum strata_status st_output_resize(struct st_output *o, uint64_t size, struct strata_error *err)
{
    int errnum = size > INT64_MAX ? EFBIG : ftruncate(o->fd, (off_t)size) ? errno : 0;
    return errnum ? failed(o, errnum, "make room in", err) : STRATA_OK;
}

enum strata_status st_output_read(
    struct st_output *o, void *data, size_t length, uint64_t offset, struct strata_error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(o->fd, (char *)data + done, length - done, (off_t)(offset + done));
        if (n == 0) {
            return st_fail(err, STRATA_E_FORMAT, "", "%s ends early", o->path);
        }
        if (n < 0 && errno != EINTR) {
            return failed(o, errno, "read", err);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return STRATA_OK;
}

enum strata_status st_output_write(
    struct st_output *o, const void *data, size_t length, uint64_t offset, struct strata_error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(o->fd, (const char *)data + done, length - done, (off_t)(offset + done));
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return failed(o, n == 0 ? ENOSPC : errno, "write", err);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return STRATA_OK;
}

void st_output_start(struct st_output *o, uint64_t offset, uint64_t length)
{
    st_output_start_call(o->fd, offset, length);
}

enum strata_status st_output_sync(
    struct st_output *o, uint64_t offset, uint64_t length, struct strata_error *err)
{
    int errnum = st_output_sync_call(o->fd, offset, length);
    return errnum ? failed(o, errnum, "write", err) : STRATA_OK;
}

/* The directory that the path is in. */
static void directory_of(const char *path, char *dir, size_t cap)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    snprintf(dir, cap, "%.*s", (int)n, path);
    if (!dir[0]) {
        snprintf(dir, cap, "%s", slash ? "/" : ".");
    }
}

/* A new name is only safe from a power cut when the directory has been written, too. */
static void sync_directory(const char *path)
{
    char dir[4096];
    directory_of(path, dir, sizeof dir);
    int fd = open(dir, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

enum strata_status st_output_commit(struct st_output *o, const char *path, struct strata_error *err)
{
    if (fsync(o->fd)) {
        return failed(o, errno, "write", err);
    }
    if (rename(o->path, path)) {
        return st_fail_errno(
            err, STRATA_E_IO, errno, hint_for(errno), "cannot rename %s to %s", o->path, path);
    }
    sync_directory(path);
    return STRATA_OK;
}

uint64_t st_disk_free(const char *path)
{
    char dir[4096];
    struct statvfs fs;
    directory_of(path, dir, sizeof dir);
    return statvfs(dir, &fs) ? UINT64_MAX : (uint64_t)fs.f_bavail * fs.f_frsize;
}

uint64_t st_path_disk_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

bool st_path_writable(const char *path)
{
    char dir[4096];
    directory_of(path, dir, sizeof dir);
    return access(dir, W_OK | X_OK) == 0;
}

bool st_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool st_path_is_no_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

enum strata_status st_path_remove(const char *path, bool *removed, struct strata_error *err)
{
    struct stat st;
    *removed = false;
    if (lstat(path, &st)) {
        return STRATA_OK;
    }
    if (S_ISDIR(st.st_mode) || unlink(path)) {
        return st_fail_errno(err, STRATA_E_IO, S_ISDIR(st.st_mode) ? EISDIR : errno,
            hint_for(errno), "cannot remove %s", path);
    }
    *removed = true;
    return STRATA_OK;
}
