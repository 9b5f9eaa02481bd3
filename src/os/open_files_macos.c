/* open_files_macos.c - see open_files.h. */
#include "os/open_files.h"

#include <fcntl.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <unistd.h>

bool fb_open_files(bool (*visit)(void *user, const char *path), void *user)
{
    int limit = getdtablesize();
    for (int fd = 0; fd < limit; fd++) {
        char path[MAXPATHLEN];
        struct stat st;
        if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || fcntl(fd, F_GETPATH, path) != 0) {
            continue;
        }
        if (visit(user, path)) {
            return true;
        }
    }
    return false;
}
