#include "os/dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __APPLE__
#define USUAL_PLACE "Library/Caches"
#else
#define USUAL_PLACE ".cache"
#endif

/* Makes the directories that lead to the file. */
static bool make_way(char *path)
{
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        bool there = mkdir(path, 0700) == 0 || errno == EEXIST;
        *at = '/';
        if (!there) {
            return false;
        }
    }
    return true;
}

bool fb_cache_path(const char *name, char *path, size_t cap)
{
    const char *own = getenv("FOREBAY_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int n = -1;
    if (own && *own) {
        n = snprintf(path, cap, "%s/%s", own, name);
    } else if (xdg && *xdg == '/') {
        n = snprintf(path, cap, "%s/forebay/%s", xdg, name);
    } else if (home && *home == '/') {
        n = snprintf(path, cap, "%s/" USUAL_PLACE "/forebay/%s", home, name);
    }
    return n > 0 && (size_t)n < cap && make_way(path);
}

bool fb_file_replace(const char *path, const char *text, size_t length)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    bool fits = n > 0 && (size_t)n < sizeof temporary;
    int flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = fits ? open(temporary, flags, 0600) : -1;
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!f) {
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    bool written = fwrite(text, 1, length, f) == length;
    written = fclose(f) == 0 && written;
    if (!written || rename(temporary, path) != 0) {
        remove(temporary);
        return false;
    }
    return true;
}

FILE *fb_file_open_text(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    FILE *f = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? fdopen(fd, "rb") : NULL;
    if (!f) {
        close(fd);
        errno = EINVAL;
    }
    return f;
}
