/*
 * io.h - asynchronous reads of file ranges, past the page cache when the file system allows it.
 *
 * A request is one byte range of one file. The engine splits it into chunks, keeps many chunks in
 * flight, retries what may be retried (EINTR, EAGAIN, short reads), and marks the request done.
 * Demand requests overtake prefetch requests that are not in flight yet.
 *
 *      idle --submit--> QUEUED --first chunk issued--> ACTIVE --last chunk back--> DONE | FAILED
 *        ^                 |                                                          |
 *        +---- cancel -----+                                                          |
 *        +-------------------------------- caller reuses -----------------------------+
 *
 * Memory: direct reads move whole aligned blocks, so a request owns an *envelope*: memory aligned
 * to FB_BLOCK_BYTES with room for fb_io_envelope(offset, length) bytes. When the request is done the
 * wanted bytes start at buffer + fb_io_delta(offset). Bytes of the envelope around them are
 * unspecified. This holds for every method, direct or not.
 *
 *      buffer        buffer + delta                         buffer + envelope
 *        |--- delta ---|============== length ==============|--- rest ---|
 *
 * Threads: an engine and its requests belong to one thread at a time. Methods may have workers of
 * their own inside.
 *
 * Rules (cited by the tests):
 *   IO1  After submit, buffer and request must stay valid until the request is DONE, FAILED or
 *        cancelled. The engine never touches them afterwards.
 *   IO2  DONE means that every wanted byte came from the file. A file that ends early is FAILED.
 *   IO3  A request changes to DONE or FAILED only inside poll, wait or submit of its engine.
 *   IO4  Free waits for what is in flight; it cancels what is queued (IDLE afterwards). A request
 *        of which only a part was issued is FAILED with E_CANCELLED.
 */
#ifndef FB_IO_IO_H
#define FB_IO_IO_H

#include "base/units.h"
#include "os/file.h"

static inline uint64_t fb_io_delta(uint64_t offset)
{
    return offset % FB_BLOCK_BYTES;
}

static inline uint64_t fb_io_envelope(uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    return (end + FB_BLOCK_BYTES - 1) / FB_BLOCK_BYTES * FB_BLOCK_BYTES -
           (offset - offset % FB_BLOCK_BYTES);
}

enum fb_io_state { FB_IO_IDLE, FB_IO_QUEUED, FB_IO_ACTIVE, FB_IO_DONE, FB_IO_FAILED };
/* DEMAND: will be needed for certain; done in the order of submission, as deep as the queue is. So
 * also the read-ahead of a fixed order, which must keep the disk busy while nobody polls.
 * PREFETCH: a guess. Only a few MiB of it are in flight: demand must never wait long behind it. */
enum fb_io_priority { FB_IO_DEMAND, FB_IO_PREFETCH };

struct fb_io_request {
    /* Set by the caller before submit. */
    struct fb_file *file;
    uint64_t offset;
    uint64_t length;              /* > 0 */
    void *buffer;                 /* see Memory above */
    enum fb_io_priority priority; /* becomes DEMAND when promoted */
    /* Set by the engine; read-only for the caller. */
    enum fb_io_state state;
    struct forebay_error error; /* why, when FAILED */
    /* Engine's own. */
    struct fb_io_request *next, *prev;
    uint64_t issued;    /* envelope bytes handed to the method so far */
    uint32_t in_flight; /* chunks not back yet */
};

/* A disk that is only thought of, and the clock that it moves (method "sim", io/sim.c). The caller
 * owns it; it must outlive the engine. Set the rates before fb_io_open; add to now_ns for time that
 * passes outside of the engine. */
struct fb_io_virtual {
    double bytes_per_s;  /* > 0 */
    uint64_t latency_ns; /* of each read, besides its turn on the disk */
    uint64_t now_ns;     /* virtual time: moves only when somebody waits, or by the caller */
};

struct fb_io_options {
    const char *method;   /* "auto", "uring", "threads", "sync", or "fault:..." (see io/fault.c);
                             "sim" with a virtual disk */
    uint32_t queue_depth; /* chunks in flight; 0: the method's default */
    uint32_t chunk_bytes; /* multiple of FB_BLOCK_BYTES; 0: default */
    bool direct;          /* false: always through the page cache */
    /* Memory that buffers will mostly come from, for registration; may be NULL. A method may take
     * and pin all its pages now (fb_vm_populate it first: that is faster), and then reads into the
     * pages it found: until fb_io_free it must not be unmapped, discarded or forbidden. */
    void *arena;
    uint64_t arena_bytes;
    struct fb_io_virtual *virtual_disk; /* of the method "sim"; else NULL */
};

struct fb_io_counters {
    uint64_t read_bytes; /* envelope bytes moved, retries included */
    uint64_t requests;
    uint64_t chunks;
    uint64_t retries; /* EINTR, EAGAIN, short reads */
    uint64_t busy_ns; /* time with at least one chunk in flight */
};

struct fb_io_engine;

/* E_USAGE listing the names when there is no method of that name. */
enum forebay_status fb_io_check_method(const char *name, struct forebay_error *err);

void fb_io_options_init(struct fb_io_options *options);

/* "auto" takes the best method that works here. A named method that the kernel refuses falls back
 * to the next best with one warning that says why; an unknown name is E_USAGE listing the names. */
enum forebay_status fb_io_open(
    const struct fb_io_options *options, struct fb_io_engine **out, struct forebay_error *err);
void fb_io_free(struct fb_io_engine *engine);

const char *fb_io_method_name(const struct fb_io_engine *engine); /* the method in use */

/* The clock that waits of this engine are measured by: fb_now_ns, or a virtual disk's. */
uint64_t fb_io_now_ns(const struct fb_io_engine *engine);

/* True when no bytes are moved: buffers are never touched, by the engine or for its sake. */
bool fb_io_is_virtual(const struct fb_io_engine *engine);

/* Queues the request and issues what the queue depth allows. Never blocks, except with "sync".
 * A range that reaches beyond the end of the file is FAILED on return. */
void fb_io_submit(struct fb_io_engine *engine, struct fb_io_request *request);

/* Takes a QUEUED request back (state IDLE, true). False when it is in flight or finished. */
bool fb_io_cancel(struct fb_io_engine *engine, struct fb_io_request *request);

/* A queued or active prefetch is needed now: its remaining chunks overtake all prefetches. */
void fb_io_promote(struct fb_io_engine *engine, struct fb_io_request *request);

/* Collects completions and issues more chunks. Never blocks. Returns requests finished. */
int fb_io_poll(struct fb_io_engine *engine);

/* Blocks, without spinning, until the request is DONE or FAILED. Returns its status and, when
 * FAILED, copies its error. A prefetch that is waited for is promoted. */
enum forebay_status fb_io_wait(
    struct fb_io_engine *engine, struct fb_io_request *request, struct forebay_error *err);

/* Blocks until at least one more request than before is DONE or FAILED; returns at once when
 * nothing is queued or in flight. */
void fb_io_wait_any(struct fb_io_engine *engine);

void fb_io_counters(const struct fb_io_engine *engine, struct fb_io_counters *out);

#endif
