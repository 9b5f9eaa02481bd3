/*
 * sync.c - one pread at a time, in the caller's thread. It works everywhere, and is the simplest
 * example of a method (method.h).
 */
#include "io/method.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct sync {
    struct fb_io_queue base;
    struct fb_io_read *done;
};

/* The depth is always 1: with more, a demand read would wait for all the reads of an earlier
 * submit. */
static enum forebay_status sync_open(const char *spec, const struct fb_io_options *options,
    uint32_t depth, struct fb_io_queue **out, struct forebay_error *err)
{
    (void)spec, (void)options, (void)depth, (void)err;
    struct sync *s = fb_xcalloc(1, sizeof *s);
    s->base = (struct fb_io_queue){&fb_io_method_sync, 1, fb_io_method_sync.name};
    *out = &s->base;
    return FOREBAY_OK;
}

static void sync_free(struct fb_io_queue *queue)
{
    free(queue);
}

static void sync_start(struct fb_io_queue *queue, struct fb_io_read *read)
{
    struct sync *s = (struct sync *)queue;
    ssize_t n = pread(read->fd, read->buffer, read->length, (off_t)read->offset);
    read->result = n < 0 ? -errno : n;
    read->next = s->done;
    s->done = read;
}

static void sync_flush(struct fb_io_queue *queue)
{
    (void)queue;
}

static struct fb_io_read *sync_reap(struct fb_io_queue *queue, bool wait)
{
    (void)wait; /* every lent read is finished */
    struct sync *s = (struct sync *)queue;
    struct fb_io_read *list = s->done;
    s->done = NULL;
    return list;
}

const struct fb_io_method fb_io_method_sync = {
    .name = "sync",
    .default_depth = 1,
    .open = sync_open,
    .free = sync_free,
    .start = sync_start,
    .flush = sync_flush,
    .reap = sync_reap,
};
