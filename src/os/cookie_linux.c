/*
 * cookie_linux.c - fopencookie.
 *
 * With such a stream glibc (2.36) passes every fread, even a large one, through the stream's buffer
 * and copies it out. An fseeko rounds down to a multiple of the buffer's size, seeks there and
 * fills the buffer, unless the position is such a multiple. So the buffer is large, and its size is
 * the `block` of cookie.h. Without a buffer there would be one call per byte.
 */
#include "os/cookie.h"

#include "base/units.h"

#include <stdlib.h>
#include <sys/types.h>

struct cookie_stream {
    void *user;
    const struct fb_cookie_calls *calls;
    void *buffer;
};

static ssize_t on_read(void *cookie, char *buffer, size_t length)
{
    struct cookie_stream *s = cookie;
    return (ssize_t)s->calls->read(s->user, buffer, length);
}

static int on_seek(void *cookie, off64_t *offset, int whence)
{
    struct cookie_stream *s = cookie;
    int64_t at = s->calls->seek(s->user, *offset, whence);
    if (at < 0) {
        return -1;
    }
    *offset = at;
    return 0;
}

static int on_close(void *cookie)
{
    struct cookie_stream *s = cookie;
    s->calls->close(s->user);
    free(s->buffer);
    free(s);
    return 0;
}

FILE *fb_cookie_open(void *user, const struct fb_cookie_calls *calls, size_t block)
{
    struct cookie_stream *s = malloc(sizeof *s);
    void *buffer = aligned_alloc(FB_BLOCK_BYTES, block < FB_BLOCK_BYTES ? FB_BLOCK_BYTES : block);
    cookie_io_functions_t io = {.read = on_read, .seek = on_seek, .close = on_close};
    FILE *f = s && buffer ? fopencookie(s, "rb", io) : NULL;
    if (!f) {
        free(buffer);
        free(s);
        return NULL;
    }
    *s = (struct cookie_stream){user, calls, buffer};
    setvbuf(f, buffer, _IOFBF, block);
    return f;
}
