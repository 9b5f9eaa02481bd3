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
 * to ST_IO_ALIGN with room for st_io_envelope(offset, length) bytes. When the request is done the
 * wanted bytes start at buffer + st_io_delta(offset). Bytes of the envelope around them are
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
#ifndef ST_IO_IO_H
#define ST_IO_IO_H

#include "os/file.h"

#define ST_IO_ALIGN 4096u

static inline uint64_t st_io_delta(uint64_t offset)
{
    return offset % ST_IO_ALIGN;
}

static inline uint64_t st_io_envelope(uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    return (end + ST_IO_ALIGN - 1) / ST_IO_ALIGN * ST_IO_ALIGN - (offset - offset % ST_IO_ALIGN);
}

enum st_io_state { ST_IO_IDLE, ST_IO_QUEUED, ST_IO_ACTIVE, ST_IO_DONE, ST_IO_FAILED };
/* DEMAND: will be needed for certain; done in the order of submission, as deep as the queue is. So
 * also the read-ahead of a fixed order, which must keep the disk busy while nobody polls.
 * PREFETCH: a guess. Only a few MiB of it are in flight: demand must never wait long behind it. */
enum st_io_priority { ST_IO_DEMAND, ST_IO_PREFETCH };

struct st_io_request {
    /* Set by the caller before submit. */
    struct st_file *file;
    uint64_t offset;
    uint64_t length;              /* > 0 */
    void *buffer;                 /* see Memory above */
    enum st_io_priority priority; /* becomes DEMAND when promoted */
    /* Set by the engine; read-only for the caller. */
    enum st_io_state state;
    struct strata_error error; /* why, when FAILED */
    /* Engine's own. */
    struct st_io_request *next, *prev;
    uint64_t issued;    /* envelope bytes handed to the method so far */
    uint32_t in_flight; /* chunks not back yet */
};

/* A disk that is only thought of, and the clock that it moves (method "sim", io/sim.c). The caller
 * owns it; it must outlive the engine. Set the rates before st_io_open; add to now_ns for time that
 * passes outside of the engine. */
struct st_io_virtual {
    double bytes_per_s;  /* > 0 */
    uint64_t latency_ns; /* of each read, besides its turn on the disk */
    uint64_t now_ns;     /* virtual time: moves only when somebody waits, or by the caller */
};

struct st_io_options {
    const char *method;   /* "auto", "uring", "threads", "sync", or "fault:..." (see io/fault.c);
                             "sim" with a virtual disk */
    uint32_t queue_depth; /* chunks in flight; 0: the method's default */
    uint32_t chunk_bytes; /* multiple of ST_IO_ALIGN; 0: default */
    bool direct;          /* false: always through the page cache */
    /* Memory that buffers will mostly come from, for registration; may be NULL. A method may take
     * and pin all its pages now (st_vm_populate it first: that is faster), and then reads into the
     * pages it found: until st_io_free it must not be unmapped, discarded or forbidden. */
    void *arena;
    uint64_t arena_bytes;
    struct st_io_virtual *virtual_disk; /* of the method "sim"; else NULL */
};

struct st_io_counters {
    uint64_t read_bytes; /* envelope bytes moved, retries included */
    uint64_t requests;
    uint64_t chunks;
    uint64_t retries; /* EINTR, EAGAIN, short reads */
    uint64_t busy_ns; /* time with at least one chunk in flight */
};

struct st_io_engine;

/* E_USAGE listing the names when there is no method of that name. */
enum strata_status st_io_check_method(const char *name, struct strata_error *err);

void st_io_options_init(struct st_io_options *options);

/* "auto" takes the best method that works here. A named method that the kernel refuses falls back
 * to the next best with one warning that says why; an unknown name is E_USAGE listing the names. */
enum strata_status st_io_open(
    const struct st_io_options *options, struct st_io_engine **out, struct strata_error *err);
void st_io_free(struct st_io_engine *engine);

const char *st_io_method_name(const struct st_io_engine *engine); /* the method in use */

/* The clock that waits of this engine are measured by: st_now_ns, or a virtual disk's. */
uint64_t st_io_now_ns(const struct st_io_engine *engine);

/* True when no bytes are moved: buffers are never touched, by the engine or for its sake. */
bool st_io_is_virtual(const struct st_io_engine *engine);

/* Queues the request and issues what the queue depth allows. Never blocks, except with "sync".
 * A range that reaches beyond the end of the file is FAILED on return. */
void st_io_submit(struct st_io_engine *engine, struct st_io_request *request);

/* Takes a QUEUED request back (state IDLE, true). False when it is in flight or finished. */
bool st_io_cancel(struct st_io_engine *engine, struct st_io_request *request);

/* A queued or active prefetch is needed now: its remaining chunks overtake all prefetches. */
void st_io_promote(struct st_io_engine *engine, struct st_io_request *request);

/* Collects completions and issues more chunks. Never blocks. Returns requests finished. */
int st_io_poll(struct st_io_engine *engine);

/* Blocks, without spinning, until the request is DONE or FAILED. Returns its status and, when
 * FAILED, copies its error. A prefetch that is waited for is promoted. */
enum strata_status st_io_wait(
    struct st_io_engine *engine, struct st_io_request *request, struct strata_error *err);

/* Blocks until at least one more request than before is DONE or FAILED; returns at once when
 * nothing is queued or in flight. */
void st_io_wait_any(struct st_io_engine *engine);

void st_io_counters(const struct st_io_engine *engine, struct st_io_counters *out);

#endif
