/*
 * cookie_linux.c - fopencookie.
 *
 * The stream is unbuffered for a reason: with a buffer, glibc answers every fseek by reading a
 * whole buffer from a rounded-down position, and throws it away when a large fread follows.
 */
#include "os/cookie.h"

#include <stdlib.h>
#include <sys/types.h>

struct stream {
    void *user;
    const struct st_cookie_calls *calls;
};

static ssize_t on_read(void *cookie, char *buffer, size_t length)
{
    struct stream *s = cookie;
    return (ssize_t)s->calls->read(s->user, buffer, length);
}

static int on_seek(void *cookie, off64_t *offset, int whence)
{
    struct stream *s = cookie;
    int64_t at = s->calls->seek(s->user, *offset, whence);
    if (at < 0) {
        return -1;
    }
    *offset = at;
    return 0;
}

static int on_close(void *cookie)
{
    struct stream *s = cookie;
    s->calls->close(s->user);
    free(s);
    return 0;
}

FILE *st_cookie_open(void *user, const struct st_cookie_calls *calls)
{
    struct stream *s = malloc(sizeof *s);
    if (!s) {
        return NULL;
    }
    *s = (struct stream){user, calls};
    cookie_io_functions_t io = {.read = on_read, .seek = on_seek, .close = on_close};
    FILE *f = fopencookie(s, "rb", io);
    if (!f) {
        free(s);
        return NULL;
    }
    setvbuf(f, NULL, _IONBF, 0);
    return f;
}
