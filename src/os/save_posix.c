/*
 * save_posix.c - see save.h. Three ways to write:
 *
 *      fb_file_replace      a new file renamed over the old one; in place where a rename would do
 *                           harm: a device, a file with several names, standard output
 *      fb_private_replace   always a new file (0600), renamed
 *      fb_private_append    in place (0600)
 */
#include "os/save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "os/file.h"
#include "os/output.h"

#define PATH_CAP 4096
#define HOPS_MAX 40 /* links that lead to links, as Linux limits them */

bool fb_path_resolve(const char *path, char *out, size_t cap)
{
    char at[PATH_CAP], dir[PATH_CAP], link[PATH_CAP];
    int n = snprintf(at, sizeof at, "%s", path);
    for (int hops = 0; n >= 0 && (size_t)n < sizeof at; hops++) {
        ssize_t length = readlink(at, link, sizeof link - 1);
        if (length < 0) {
            n = snprintf(out, cap, "%s", at);
            errno = ENAMETOOLONG;
            return n >= 0 && (size_t)n < cap;
        }
        if (hops == HOPS_MAX) {
            errno = ELOOP;
            return false;
        }
        link[length] = 0;
        fb_path_directory(at, dir, sizeof dir);
        n = link[0] == '/' ? snprintf(at, sizeof at, "%s", link)
                           : snprintf(at, sizeof at, "%s/%s", dir, link);
    }
    errno = ENAMETOOLONG;
    return false;
}

/* The name that a file would have in its directory, if it was created. */
static bool place_of(const char *path, struct stat *dir_st, char *name, size_t cap)
{
    char target[PATH_CAP], dir[PATH_CAP];
    if (!fb_path_resolve(path, target, sizeof target)) {
        return false;
    }
    fb_path_directory(target, dir, sizeof dir);
    const char *slash = strrchr(target, '/');
    int n = snprintf(name, cap, "%s", slash ? slash + 1 : target);
    return n >= 0 && (size_t)n < cap && stat(dir, dir_st) == 0;
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool fb_path_same_file(const char *a, const char *b)
{
    struct stat st_a, st_b;
    char name_a[PATH_CAP], name_b[PATH_CAP];
    bool have_a = stat(a, &st_a) == 0, have_b = stat(b, &st_b) == 0;
    if (have_a || have_b) {
        return have_a && have_b && S_ISREG(st_a.st_mode) && same_inode(&st_a, &st_b);
    }
    return place_of(a, &st_a, name_a, sizeof name_a) && place_of(b, &st_b, name_b, sizeof name_b) &&
           same_inode(&st_a, &st_b) && strcmp(name_a, name_b) == 0;
}

int fb_path_check_output(const char *path)
{
    struct stat st;
    char target[PATH_CAP], dir[PATH_CAP];
    if (stat(path, &st) == 0) {
        return S_ISDIR(st.st_mode) ? EISDIR : access(path, W_OK) ? errno : 0;
    }
    if (errno != ENOENT || !*path || !fb_path_resolve(path, target, sizeof target)) {
        return errno;
    }
    if (target[strlen(target) - 1] == '/') {
        return EISDIR;
    }
    fb_path_directory(target, dir, sizeof dir);
    return stat(dir, &st)             ? errno
           : !S_ISDIR(st.st_mode)     ? ENOTDIR
           : access(dir, W_OK | X_OK) ? errno
                                      : 0;
}

/* The descriptor of a new file, or -1. */
static int make_temporary(const char *path, char *temporary, size_t cap)
{
    fb_file_survive_limit();
    unsigned number = (unsigned)fb_now_ns() ^ (unsigned)getpid() << 8;
    for (int attempt = 0; attempt < 100; attempt++) {
        int n = snprintf(temporary, cap, "%s.%08x.tmp", path, number + (unsigned)attempt);
        if (n < 0 || (size_t)n >= cap) {
            errno = ENAMETOOLONG;
            return -1;
        }
        int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) {
            return fd;
        }
    }
    return -1;
}

bool fb_temporary_create(const char *path, char *temporary, size_t cap)
{
    int fd = make_temporary(path, temporary, cap);
    return fd >= 0 && close(fd) == 0;
}

/* A copy of the descriptor of standard output or standard error, if that is this file. Opening the
 * file a second time would overwrite what is printed. -1: it is neither. */
static int standard_stream(const struct stat *st)
{
    struct stat stream;
    for (int fd = 1; fd <= 2; fd++) {
        if (fstat(fd, &stream) == 0 && same_inode(st, &stream)) {
            fflush(stdout);
            return fcntl(fd, F_DUPFD_CLOEXEC, 0);
        }
    }
    return -1;
}

FILE *fb_save_open(const char *path)
{
    struct stat st;
    int fd = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? standard_stream(&st) : -1;
    fd = fd >= 0 ? fd : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (fd >= 0 && !file) {
        close(fd);
    }
    return file;
}

/* Writes all of the text and closes the file. */
static bool write_close(FILE *file, const char *text, size_t length)
{
    bool written = file && fwrite(text, 1, length, file) == length && fflush(file) == 0;
    int errnum = errno;
    if (file && fclose(file) != 0 && written) {
        return false;
    }
    errno = errnum;
    return written;
}

/* True if the file at `path` is one that can be replaced by renaming another to `target`. */
static bool can_replace(const char *path, char *target, size_t cap, mode_t *mode)
{
    struct stat st, end;
    *mode = 0;
    if (!fb_path_resolve(path, target, cap)) {
        return false;
    }
    if (stat(path, &st)) {
        return errno == ENOENT;
    }
    *mode = st.st_mode & 07777;
    int stream = standard_stream(&st);
    if (stream >= 0) {
        close(stream);
    }
    return S_ISREG(st.st_mode) && stream < 0 && st.st_nlink == 1 && stat(target, &end) == 0 &&
           same_inode(&st, &end);
}

bool fb_file_replace(const char *path, const char *text, size_t length)
{
    char target[PATH_CAP], temporary[PATH_CAP];
    mode_t mode;
    if ((errno = fb_path_check_output(path))) {
        return false;
    }
    int fd = can_replace(path, target, sizeof target, &mode)
                 ? make_temporary(target, temporary, sizeof temporary)
                 : -1;
    if (fd < 0) { /* a device, a file with several names, or no new file in its directory */
        return write_close(fb_save_open(path), text, length);
    }
    bool moded = mode == 0 || fchmod(fd, mode) == 0;
    FILE *file = fdopen(fd, "w");
    if (!file) {
        close(fd);
    }
    if (!moded || !write_close(file, text, length) || rename(temporary, target) != 0) {
        int errnum = errno;
        unlink(temporary);
        errno = errnum;
        return false;
    }
    return true;
}

bool fb_private_replace(const char *path, const char *text, size_t length)
{
    char temporary[PATH_CAP];
    int fd = make_temporary(path, temporary, sizeof temporary);
    if (fd < 0) {
        return false;
    }
    FILE *file = fchmod(fd, 0600) == 0 ? fdopen(fd, "w") : NULL;
    if (!file) {
        close(fd);
    }
    if (!write_close(file, text, length) || rename(temporary, path) != 0) {
        int errnum = errno;
        unlink(temporary);
        errno = errnum;
        return false;
    }
    return true;
}

bool fb_stdin_is_given(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 &&
           (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISREG(st.st_mode));
}

bool fb_private_append(const char *path, const char *text, size_t length)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0) {
        return false;
    }
    bool written = fchmod(fd, 0600) == 0 && write(fd, text, length) == (ssize_t)length;
    return close(fd) == 0 && written;
}
