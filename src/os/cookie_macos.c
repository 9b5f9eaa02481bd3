/*
 * cookie_macos.c - funopen.
 *
 * Unbuffered: a large fread then reads straight into its destination, and seeks are exact. The read
 * function takes and returns an int, so a piece is at most 1 GiB; fread calls again for the rest.
 * Each small read costs a call, which is cheap: the header is in memory.
 */
#include "os/cookie.h"

#include <stdlib.h>

#define MAX_PIECE (1 << 30)

struct cookie_stream {
    void *user;
    const struct fb_cookie_calls *calls;
};

static int on_read(void *cookie, char *buffer, int length)
{
    struct cookie_stream *s = cookie;
    return (int)s->calls->read(s->user, buffer, (size_t)(length < MAX_PIECE ? length : MAX_PIECE));
}

static fpos_t on_seek(void *cookie, fpos_t offset, int whence)
{
    struct cookie_stream *s = cookie;
    return (fpos_t)s->calls->seek(s->user, (int64_t)offset, whence);
}

static int on_close(void *cookie)
{
    struct cookie_stream *s = cookie;
    s->calls->close(s->user);
    free(s);
    return 0;
}

FILE *fb_cookie_open(void *user, const struct fb_cookie_calls *calls, size_t block)
{
    (void)block;
    struct cookie_stream *s = malloc(sizeof *s);
    FILE *f = s ? funopen(s, on_read, NULL, on_seek, on_close) : NULL;
    if (!f) {
        free(s);
        return NULL;
    }
    *s = (struct cookie_stream){user, calls};
    setvbuf(f, NULL, _IONBF, 0);
    return f;
}
