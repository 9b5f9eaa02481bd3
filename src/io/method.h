/*
 * method.h - the contract of a read method: it moves bytes from a file into memory.
 *
 * Internal to io. The engine (io.c) decides what is read and in which order, and handles the
 * results; a method only moves bytes. To write a new one: fill a `struct fb_io_method`, keep its
 * state in a struct that begins with a `struct fb_io_queue`, and add it to the list in choose.c.
 *
 *      engine --start--> held by the method --(flush: in flight)--> finished --reap--> engine
 *
 * A read is lent to the method from start until reap returns it. At most `depth` reads are lent at
 * a time. All calls come from one thread at a time.
 */
#ifndef FB_IO_METHOD_H
#define FB_IO_METHOD_H

#include "forebay.h"
#include "io/options.h"

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
    /* For the method's use while the read is lent to it; `next` also links the list reap
     * returns. */
    struct fb_io_read *next;
    uint64_t tag;
};

/* An open method: what fb_io_method.open makes. */
struct fb_io_queue {
    const struct fb_io_method *method;
    uint32_t depth;   /* reads it can hold */
    const char *name; /* as shown to users; valid as long as the queue */
};

struct fb_io_method {
    const char *name;
    uint32_t default_depth;

    /* Makes a queue of `depth` reads (>= 1). Fails when the system refuses (E_UNSUPPORTED, with the
     * reason in the message) or when `spec`, the text after "NAME:", is wrong (E_USAGE). */
    enum forebay_status (*open)(const char *spec, const struct fb_io_options *options,
        uint32_t depth, struct fb_io_queue **out, struct forebay_error *err);

    /* Called when no read is lent. */
    void (*free)(struct fb_io_queue *queue);

    /* Accepts a read, which may stay unissued until flush. Must not block (sync does). Cannot fail:
     * errors are reported in the read's result. */
    void (*start)(struct fb_io_queue *queue, struct fb_io_read *read);

    /* Every started read is in flight when this returns. */
    void (*flush)(struct fb_io_queue *queue);

    /* Returns a list of finished reads in any order, or NULL. With `wait` it sleeps until there is
     * one; at least one read is lent then, and all are flushed. Without `wait` it must be almost
     * free when nothing has finished: it is called between computations. */
    struct fb_io_read *(*reap)(struct fb_io_queue *queue, bool wait);

    /* Optional: the clock of a method that moves no bytes. NULL: real reads and real time. */
    uint64_t (*now_ns)(const struct fb_io_queue *queue);
};

/* The methods, each in a file of its name (simulated.c for "sim"). */
extern const struct fb_io_method fb_io_method_sync;
extern const struct fb_io_method fb_io_method_threads;
extern const struct fb_io_method fb_io_method_fault;
extern const struct fb_io_method fb_io_method_sim;
#ifdef FB_HAVE_LIBURING
extern const struct fb_io_method fb_io_method_uring;
#endif

#endif
