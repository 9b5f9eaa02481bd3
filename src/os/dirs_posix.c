/* dirs_posix.c - see dirs.h. */
#include "os/dirs.h"
#include "os/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __APPLE__
#define CACHE_BELOW_HOME "Library/Caches"
#else
#define CACHE_BELOW_HOME ".cache"
#endif

/* Creates the directories that lead to the file. */
static bool make_parents(char *path)
{
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        bool exists = mkdir(path, 0700) == 0 || errno == EEXIST;
        *at = '/';
        if (!exists) {
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
        n = snprintf(path, cap, "%s/" CACHE_BELOW_HOME "/forebay/%s", home, name);
    }
    return n > 0 && (size_t)n < cap && make_parents(path);
}

FILE *fb_file_open_text(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    FILE *f = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? fdopen(fd, "rb") : NULL;
    if (!f && fd >= 0) {
        close(fd);
    }
    return f;
}
