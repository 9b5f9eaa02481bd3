/* open_files_linux.c - see open_files.h. */
#include "os/open_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int highest_descriptor(void)
{
    int highest = -1;
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *d; dir && (d = readdir(dir));) {
        int fd = (int)strtol(d->d_name, NULL, 10);
        highest = fd > highest ? fd : highest;
    }
    if (dir) {
        closedir(dir);
    }
    return highest;
}

bool fb_open_files(bool (*visit)(void *user, const char *path), void *user)
{
    int highest = highest_descriptor();
    for (int fd = 0; fd <= highest; fd++) {
        char link[64], path[4096];
        struct stat st;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, path, sizeof path - 1);
        if (n <= 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
            continue;
        }
        path[n] = 0;
        if (visit(user, path)) {
            return true;
        }
    }
    return false;
}
