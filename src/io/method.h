/*
 * method.h - how bytes get from a file into memory: what a read method must do.
 *
 * Internal to io. The engine (io.c) decides what is read, in which order and what becomes of the
 * result; a method only moves bytes. To write a new one: fill a `struct fb_io_method`, keep your
 * state in a struct that begins with a `struct fb_io_queue`, and add it to the list in method.c.
 *
 *      engine --start--> method's hands --(flush: under way)--> finished --reap--> engine
 *
 * A read is lent to the method from start until reap returns it. At most `depth` are lent at
 * a time. All calls come from one thread at a time.
 */
#ifndef FB_IO_METHOD_H
#define FB_IO_METHOD_H

#include "io/io.h"

/* One read of one contiguous range. */
struct fb_io_read {
    /* Set by the engine. */
    int fd;
    bool direct; /* fd bypasses the page cache: buffer, length and offset are aligned */
    uint32_t length;
    uint64_t offset;
    void *buffer;
    /* Set by the method. */
    int64_t result; /* bytes read (0: end of file), or -errno */
    /* The method's own while the read is lent to it, and the link of reap's list. */
    struct fb_io_read *next;
    uint64_t tag;
};

struct fb_io_queue {
    const struct fb_io_method *method;
    uint32_t depth;   /* reads it can hold */
    const char *name; /* shown to people; lives as long as the queue */
};

struct fb_io_method {
    const char *name;
    uint32_t default_depth;

    /* Makes a queue of `depth` reads (>= 1). Fails when the system refuses (E_UNSUPPORTED, the
     * message says why) or when `spec` (text after "NAME:") is wrong (E_USAGE). */
    enum forebay_status (*open)(const char *spec, const struct fb_io_options *options,
        uint32_t depth, struct fb_io_queue **out, struct forebay_error *err);

    /* Called with no read lent. */
    void (*free)(struct fb_io_queue *queue);

    /* Takes a read. May leave it lying until flush. Must not block (sync does). Cannot fail: what
     * goes wrong is the read's result. */
    void (*start)(struct fb_io_queue *queue, struct fb_io_read *read);

    /* Everything started is on its way when this returns. */
    void (*flush)(struct fb_io_queue *queue);

    /* Returns a list of finished reads in any order, or NULL. With `wait` it first sleeps until
     * there is one; at least one read is lent then, and all are flushed. Without, it must cost
     * next to nothing when there is none: it is called between computations. */
    struct fb_io_read *(*reap)(struct fb_io_queue *queue, bool wait);

    /* The clock of a method that moves no bytes; NULL: bytes are moved, and time is the real one. */
    uint64_t (*now_ns)(const struct fb_io_queue *queue);
};

extern const struct fb_io_method fb_io_method_sync;
extern const struct fb_io_method fb_io_method_threads;
extern const struct fb_io_method fb_io_method_fault;
extern const struct fb_io_method fb_io_method_sim;
#ifdef FB_HAVE_LIBURING
extern const struct fb_io_method fb_io_method_uring;
#endif

/* Opens the queue of options->method, falling back as fb_io_open promises. */
enum forebay_status fb_io_queue_open(
    const struct fb_io_options *options, struct fb_io_queue **out, struct forebay_error *err);

/* An engine on a queue of the caller's making; it becomes the engine's. */
struct fb_io_engine *fb_io_engine_new(
    const struct fb_io_options *options, struct fb_io_queue *queue);

#endif
