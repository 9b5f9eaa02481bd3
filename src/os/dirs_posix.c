#include "os/dirs.h"
#include "os/file.h"

#include <errno.h>
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
    fb_file_survive_limit();
    int n = snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    FILE *f = n > 0 && (size_t)n < sizeof temporary ? fopen(temporary, "wb") : NULL;
    if (!f) {
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
