/* library_posix.c - see library.h. */
#define _GNU_SOURCE /* dladdr */
#include "os/library.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <stdio.h>
#include <string.h>

bool fb_library_dir(void (*function)(void), char *dir, size_t cap)
{
    Dl_info info;
    const char *slash;
    if (!dladdr((void *)function, &info) || !info.dli_fname ||
        !(slash = strrchr(info.dli_fname, '/'))) {
        return false;
    }
    int n = snprintf(dir, cap, "%.*s", (int)(slash - info.dli_fname), info.dli_fname);
    return n > 0 && (size_t)n < cap;
}

bool fb_library_called_from(const char *part)
{
    void *callers[24];
    int n = backtrace(callers, 24);
    for (int i = 0; i < n; i++) {
        Dl_info info;
        if (dladdr(callers[i], &info) && info.dli_sname && strstr(info.dli_sname, part)) {
            return true;
        }
    }
    return false;
}
