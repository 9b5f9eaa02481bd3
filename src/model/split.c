/* split.c - see split.h. */
#include "model/split.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* Length of the path before "-NNNNN-of-COUNT.gguf", or 0 when it does not end in that. Numbers of
 * more than five digits occur only in hostile files. */
static size_t prefix_length(const char *path, int count)
{
    char tail[32];
    snprintf(tail, sizeof tail, "-of-%05d.gguf", count);
    size_t length = strlen(path), tail_length = strlen(tail);
    if (length <= tail_length + 6 || strcmp(path + length - tail_length, tail) != 0) {
        return 0;
    }
    size_t prefix = length - tail_length - 6;
    if (path[prefix] != '-') {
        return 0;
    }
    for (size_t i = 1; i <= 5; i++) {
        if (!isdigit((unsigned char)path[prefix + i])) {
            return 0;
        }
    }
    return prefix;
}

char *fb_split_path(const char *path, int no, int count)
{
    size_t prefix = prefix_length(path, count);
    if (prefix == 0) {
        return NULL;
    }
    size_t cap = prefix + 48;
    char *part = fb_xmalloc(cap);
    snprintf(part, cap, "%.*s-%05d-of-%05d.gguf", (int)prefix, path, no + 1, count);
    return part;
}

bool fb_split_is_named(const char *path, int no, int count)
{
    char tail[48];
    snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", no + 1, count);
    size_t length = strlen(path), tail_length = strlen(tail);
    return length > tail_length && strcmp(path + length - tail_length, tail) == 0;
}
