/*
 * io.h - asynchronous reads of file ranges, past the page cache when the file system allows it.
 *
 * A request is one byte range of one file. The engine splits it into chunks, keeps many chunks in
 * flight, retries after EINTR, EAGAIN and short reads, and marks the request done. Demand requests
 * overtake prefetch requests that are not in flight yet.
 *
 *      idle --submit--> QUEUED --first chunk issued--> ACTIVE --last chunk back--> DONE | FAILED
 *        ^                 |                                                          |
 *        +---- cancel -----+                                                          |
 *        +-------------------------------- caller reuses -----------------------------+
 *
 * Memory: direct reads move whole aligned blocks, so a request owns an *envelope*: memory aligned
 * to FB_BLOCK_BYTES with room for fb_io_envelope(offset, length) bytes. When the request is done
 * the wanted bytes start at buffer + fb_io_delta(offset). The bytes of the envelope around them are
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
 *   IO2  DONE means that every wanted byte came from the file. If the file ends early the request
 *        is FAILED.
 *   IO3  A request changes to DONE or FAILED only inside a call on its engine.
 *   IO4  Free waits for reads in flight and cancels queued requests (IDLE afterwards). A request of
 *        which only some chunks were issued is FAILED with E_CANCELLED.
 */
#ifndef FB_IO_IO_H
#define FB_IO_IO_H

#include "base/units.h"
#include "io/choose.h"
#include "io/options.h"
#include "os/file.h"

static inline uint64_t fb_io_delta(uint64_t offset)
{
    return offset % FB_BLOCK_BYTES;
}

static inline uint64_t fb_io_envelope(uint64_t offset, uint64_t length)
{
    return fb_round_up(offset + length, FB_BLOCK_BYTES) - fb_round_down(offset, FB_BLOCK_BYTES);
}

enum fb_io_state { FB_IO_IDLE, FB_IO_QUEUED, FB_IO_ACTIVE, FB_IO_DONE, FB_IO_FAILED };

/* DEMAND: certain to be needed. Issued in the order of submission, up to the full queue depth. The
 * ring and the transit use it for prefetches, too: they know the order of use, and their reads keep
 * the disk busy between polls.
 * PREFETCH: a guess. At most 4 MiB are in flight, so that a demand read is never delayed long. */
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
    struct forebay_error error; /* the reason, when FAILED */
    /* Internal to the engine. */
    struct fb_io_request *next, *prev;
    uint64_t issued;    /* envelope bytes handed to the method so far */
    uint32_t in_flight; /* chunks not back yet */
};

struct fb_io_counters {
    uint64_t read_bytes; /* envelope bytes moved, retries included */
    uint64_t requests;
    uint64_t chunks;
    uint64_t retries; /* EINTR, EAGAIN, short reads */
    uint64_t busy_ns; /* time with at least one chunk in flight */
};

struct fb_io_engine;
struct fb_io_queue; /* io/method.h */

/* "auto" chooses the best method that works here. A named method that the kernel refuses falls back
 * to the next best, with one warning that gives the reason; an unknown name is E_USAGE listing the
 * names. */
enum forebay_status fb_io_open(
    const struct fb_io_options *options, struct fb_io_engine **out, struct forebay_error *err);

/* An engine on a queue that the caller has opened; the engine frees it. */
struct fb_io_engine *fb_io_engine_new(
    const struct fb_io_options *options, struct fb_io_queue *queue);

/* See IO4. NULL is fine. */
void fb_io_free(struct fb_io_engine *engine);

const char *fb_io_method_name(const struct fb_io_engine *engine); /* the method in use */

/* The clock by which this engine's waits are measured: fb_now_ns, or a virtual disk's. */
uint64_t fb_io_now_ns(const struct fb_io_engine *engine);

/* True when no bytes are moved: buffers are never touched and need no memory behind them. */
bool fb_io_is_virtual(const struct fb_io_engine *engine);

/* Queues the request and issues as many chunks as the queue depth allows. Never blocks, except with
 * "sync". A range that reaches beyond the end of the file is FAILED on return. */
void fb_io_submit(struct fb_io_engine *engine, struct fb_io_request *request);

/* Withdraws a QUEUED request (state IDLE, true). False when it is in flight or finished. */
bool fb_io_cancel(struct fb_io_engine *engine, struct fb_io_request *request);

/* Turns a queued or active prefetch into a demand read: its remaining chunks overtake all other
 * prefetches. */
void fb_io_promote(struct fb_io_engine *engine, struct fb_io_request *request);

/* Collects completions and issues more chunks. Never blocks. Returns the number of requests that
 * finished. */
int fb_io_poll(struct fb_io_engine *engine);

/* Blocks, without spinning, until the request is DONE or FAILED. Returns its status and, when
 * FAILED, copies its error. Promotes a prefetch. */
enum forebay_status fb_io_wait(
    struct fb_io_engine *engine, struct fb_io_request *request, struct forebay_error *err);

/* Blocks until at least one more request than before is DONE or FAILED; returns at once when
 * nothing is queued or in flight. */
void fb_io_wait_any(struct fb_io_engine *engine);

void fb_io_counters(const struct fb_io_engine *engine, struct fb_io_counters *out);

#endif
