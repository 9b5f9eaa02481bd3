/* proc_linux.c - see proc_linux.h. */
#include "os/proc_linux.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool fb_proc_text(const char *root, const char *path, char *buf, size_t cap)
{
    char full[4096];
    if (snprintf(full, sizeof full, "%s%s", root, path) >= (int)sizeof full) {
        return false;
    }
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    size_t used = 0;
    while (used < cap - 1) {
        ssize_t n = read(fd, buf + used, cap - 1 - used);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        used += (size_t)n;
    }
    buf[used] = 0;
    close(fd);
    return true;
}

bool fb_proc_again(int fd, char *buf, size_t cap)
{
    ssize_t n;
    do {
        n = fd < 0 ? -1 : pread(fd, buf, cap - 1, 0);
    } while (n < 0 && fd >= 0 && errno == EINTR);
    buf[n < 0 ? 0 : n] = 0;
    return n >= 0;
}

bool fb_proc_field(const char *text, const char *key, uint64_t *out)
{
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, n) || (line[n] != ' ' && line[n] != '\t')) {
            continue;
        }
        const char *digits = line + n + strspn(line + n, " \t");
        if (!isdigit((unsigned char)*digits)) {
            return false;
        }
        *out = strtoull(digits, NULL, 10);
        return true;
    }
    return false;
}

bool fb_psi_total(const char *text, uint64_t *us)
{
    const char *total = strncmp(text, "some ", 5) == 0 ? strstr(text, "total=") : NULL;
    if (!total || total[6] < '0' || total[6] > '9') {
        return false;
    }
    *us = strtoull(total + 6, NULL, 10);
    return true;
}
