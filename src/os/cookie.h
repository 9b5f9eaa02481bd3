/*
 * cookie.h - a FILE * that reads through functions (fopencookie on Linux, funopen on macOS).
 */
#ifndef FB_OS_COOKIE_H
#define FB_OS_COOKIE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct fb_cookie_calls {
    /* Reads up to `length` bytes at the position and advances it. Returns their number, 0 at the
     * end, -1 with errno set. After a short read it is called again for the rest. */
    int64_t (*read)(void *user, void *buffer, size_t length);
    /* Moves the position (SEEK_SET, SEEK_CUR, SEEK_END). Returns it, or -1 with errno set. Every
     * ftello calls it with (0, SEEK_CUR). */
    int64_t (*seek)(void *user, int64_t offset, int whence);
    /* Called by fclose; frees `user`. */
    void (*close)(void *user);
};

/* A read-only stream. `block` is a power of two: an fseeko to a multiple of it seeks exactly there
 * and reads nothing; other seeks may read up to a block before that position. `read` is asked for
 * at most a block at a time (on macOS: for all of a large fread). NULL with errno set when there is
 * no memory; `close` is not called then. */
FILE *fb_cookie_open(void *user, const struct fb_cookie_calls *calls, size_t block);

#endif
