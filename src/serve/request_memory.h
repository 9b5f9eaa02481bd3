/*
 * request_memory.h - bounds the memory that requests take before they are jobs: bodies being
 * received, parsed and turned into prompts.
 *
 *      open --> receiving: the share grows with the body
 *          --received--> parsing: it grows by an estimate
 *          --> the prompt is made: it shrinks to the job's needs --> close
 *
 * All shares together never exceed the memory that the server has for them. A share that finds no
 * room waits for some seconds. Meanwhile the largest body that is still being received, if it is
 * larger, is cut off: a few clients that never finish must not hold up those that do. The last
 * quarter of the memory is for small shares, so that large requests, which wait for each other, do
 * not hold up small ones, either. Thread-safe.
 */
#ifndef FB_SERVE_REQUEST_MEMORY_H
#define FB_SERVE_REQUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fb_request_memory;

/* The memory of one request. Belongs to request_memory.c. */
struct fb_memory_share {
    uint64_t bytes;
    int fd;         /* the client's socket */
    bool receiving; /* may be cut off */
    bool cut_off;
    struct fb_memory_share *before, *after;
};

struct fb_request_memory *fb_request_memory_new(uint64_t bytes);
/* All shares must be closed. NULL is ignored. */
void fb_request_memory_free(struct fb_request_memory *memory);
/* From now on no share waits for room. */
void fb_request_memory_stop(struct fb_request_memory *memory);
/* The largest share that one request can have. */
uint64_t fb_request_memory_most(const struct fb_request_memory *memory);

/* Opens a share of 0 bytes for a request that is being received from the socket `fd`, which must
 * stay open until fb_share_received or fb_share_close. */
void fb_share_open(struct fb_request_memory *memory, struct fb_memory_share *share, int fd);
void fb_share_received(struct fb_request_memory *memory, struct fb_memory_share *share);
/* Changes a share to `bytes`. Growing may block for some seconds; false if there is no room, and
 * then the share is unchanged. Shrinking succeeds at once, and may return free heap memory to the
 * system: free the request's memory first. */
bool fb_share_set(struct fb_request_memory *memory, struct fb_memory_share *share, uint64_t bytes);
void fb_share_close(struct fb_request_memory *memory, struct fb_memory_share *share);

/* At least the memory that is taken while JSON of `n` bytes is parsed and made into a prompt. */
uint64_t fb_json_bytes(const char *json, size_t n);

#endif
