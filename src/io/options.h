/* options.h - how an engine reads: the method, its depth, and what it is told about memory. */
#ifndef FB_IO_OPTIONS_H
#define FB_IO_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* A disk that exists only as arithmetic, and the clock that it advances (method "sim",
 * io/simulated.c). The caller owns it; it must outlive the engine. Set the rates before fb_io_open;
 * add to now_ns for time that passes outside the engine. */
struct fb_io_virtual {
    double bytes_per_s;  /* > 0 */
    uint64_t latency_ns; /* added to each read after it has been served */
    uint64_t now_ns;     /* virtual time: advanced only by waits, or by the caller */
};

struct fb_io_options {
    const char *method;   /* "auto", "uring", "threads", "sync", or "fault:..." (see io/fault.c);
                             "sim" with a virtual disk */
    uint32_t queue_depth; /* chunks in flight; 0: the method's default */
    uint32_t chunk_bytes; /* multiple of FB_BLOCK_BYTES; 0: default */
    bool direct;          /* false: always through the page cache */
    /* Memory that most buffers come from, for registration with the kernel; may be NULL. A method
     * may populate and pin all of its pages at open (fb_vm_populate them first: that is faster),
     * and then reads into those pages: until fb_io_free they must not be unmapped, discarded or
     * forbidden. */
    void *arena;
    uint64_t arena_bytes;
    struct fb_io_virtual *virtual_disk; /* for the method "sim"; else NULL */
};

/* "auto", direct, and everything else by default. */
static inline void fb_io_options_init(struct fb_io_options *options)
{
    memset(options, 0, sizeof *options);
    options->method = "auto";
    options->direct = true;
}

#endif
