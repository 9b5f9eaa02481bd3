/*
 * io.c - the I/O engine: queues, chunks, retries and states. A method (method.h) does the reading.
 *
 *      submit --> waiting[DEMAND]   -+                                    +--> request done
 *                 waiting[PREFETCH] -+--> chunk --start--> method --reap--+
 *                 again             -+     ^                              +--> again (retry)
 *                                          +-- free chunks
 *
 * A request is in the waiting list of its priority until its last chunk has been issued (`issued`
 * grows from 0 to the envelope's size); after that only its chunks point to it. A chunk is a piece
 * of an envelope in envelope coordinates: 0 is the envelope's first byte in memory and, in the
 * file, the multiple of FB_BLOCK_BYTES at or below the request's offset.
 *
 *      envelope   0 .... delta =================== delta+length .... size
 *      chunks     |------- chunk_bytes -------|------ chunk_bytes ------|
 *
 * A direct read moves the whole chunk, a buffered read only the wanted bytes in it. After a short
 * read the chunk is issued again from where it stopped, rounded down to a multiple of
 * FB_BLOCK_BYTES if direct. If a direct read does not reach the next multiple, the chunk is
 * finished through the page cache, where a read returns 0 at the end of the file and nowhere else.
 *
 * Invariants
 *   - at most `depth` chunks are in flight or in `again`; the others are in `free`
 *   - a request is in a waiting list exactly when it is QUEUED, or ACTIVE, not failing and not all
 *     issued
 *   - failing means that error.status is set: no more chunks are cut, and the request becomes
 *     FAILED when its last chunk is back
 *   - prefetches leave part of the depth free, so that a demand read is issued soon
 */
#include "io/io.h"
#include "io/method.h"

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Measured with random direct reads of 4 MiB on a virtual disk of about 1.9 GB/s, two cores, uring,
 * 64 (8) in flight: chunks of 64 KiB 1.5 (1.3) GB/s, 256 KiB 1.79 (1.65), 512 KiB 1.85 (1.74),
 * 1 MiB 1.88 (1.83), 4 MiB 1.93 (1.88). Larger chunks mostly delay the reads behind them. */
#define DEFAULT_CHUNK_BYTES (1u << 20)

/* Bytes of prefetch in flight. Same disk, endless prefetch, an occasional demand read of 1.5 MiB:
 * it took 3.3 ms with 4 MiB of prefetch in flight, 6.2 with 8, 10.9 with 16 and 77 with 64; the
 * total stayed at 1.6-1.7 GB/s. Not less than 4, because a caller does not poll while it
 * computes. */
#define PREFETCH_BYTES (4u << 20)

/* After so many EINTR or EAGAIN in a row a read has failed. Only a broken system gets there. */
#define MAX_TRIES 10000u

struct chunk {
    struct fb_io_read read; /* first: a finished read is cast to its chunk */
    struct fb_io_request *request;
    uint64_t begin, end; /* envelope coordinates of what is still to be read */
    uint64_t from;       /* where the read in flight begins */
    uint32_t tries;
    bool buffered; /* finish this chunk through the page cache */
    bool prefetch; /* counted in prefetch_in_flight */
    struct chunk *next;
};

struct fifo { /* linked by next and prev of the request */
    struct fb_io_request *head, *tail;
};

struct fb_io_engine {
    struct fb_io_queue *queue; /* of the method */
    uint32_t chunk_bytes;
    bool direct;
    uint32_t prefetch_depth;
    struct fifo waiting[2]; /* by enum fb_io_priority */
    struct chunk *free, *again, *all;
    uint32_t in_flight; /* chunks lent to the method */
    uint32_t prefetch_in_flight;
    uint64_t finished; /* requests ever DONE or FAILED */
    uint64_t busy_since_ns;
    struct fb_io_counters counters;
};

/* --- States and queues ------------------------------------------------------------------------ */

/* The only function that changes a request's state. */
static void transition(
    struct fb_io_engine *engine, struct fb_io_request *request, enum fb_io_state to)
{
    enum fb_io_state from = request->state;
    bool at_rest = from == FB_IO_IDLE || from == FB_IO_DONE || from == FB_IO_FAILED;
    switch (to) {
    case FB_IO_QUEUED:
        FB_ASSERT(at_rest);
        break;
    case FB_IO_IDLE:
        FB_ASSERT(from == FB_IO_QUEUED);
        break;
    case FB_IO_ACTIVE:
        FB_ASSERT(from == FB_IO_QUEUED);
        break;
    case FB_IO_DONE:
        FB_ASSERT(from == FB_IO_ACTIVE && request->error.status == FOREBAY_OK);
        break;
    case FB_IO_FAILED:
        FB_ASSERT(!at_rest && request->error.status != FOREBAY_OK);
        break;
    }
    request->state = to;
    engine->finished += to == FB_IO_DONE || to == FB_IO_FAILED;
}

static void enqueue(struct fb_io_engine *engine, struct fb_io_request *request)
{
    struct fifo *q = &engine->waiting[request->priority];
    request->next = NULL;
    request->prev = q->tail;
    *(q->tail ? &q->tail->next : &q->head) = request;
    q->tail = request;
}

static void dequeue(struct fb_io_engine *engine, struct fb_io_request *request)
{
    struct fifo *q = &engine->waiting[request->priority];
    *(request->prev ? &request->prev->next : &q->head) = request->next;
    *(request->next ? &request->next->prev : &q->tail) = request->prev;
    request->next = request->prev = NULL;
}

static bool is_queued(const struct fb_io_request *request)
{
    return request->state == FB_IO_QUEUED ||
           (request->state == FB_IO_ACTIVE && request->error.status == FOREBAY_OK &&
               request->issued < fb_io_envelope(request->offset, request->length));
}

/* --- Chunks --------------------------------------------------------------------------------- */

/* End of the wanted bytes inside a chunk, in envelope coordinates. */
static uint64_t wanted_end(const struct chunk *chunk)
{
    const struct fb_io_request *request = chunk->request;
    return fb_min(chunk->end, fb_io_delta(request->offset) + request->length);
}

/* Cuts the next chunk off a queued request. */
static struct chunk *cut_chunk(struct fb_io_engine *engine, struct fb_io_request *request)
{
    uint64_t size = fb_io_envelope(request->offset, request->length);
    struct chunk *chunk = engine->free;
    engine->free = chunk->next;
    chunk->request = request;
    chunk->begin = request->issued;
    chunk->end = fb_min(request->issued + engine->chunk_bytes, size);
    chunk->tries = 0;
    chunk->buffered = false;
    chunk->prefetch = request->priority == FB_IO_PREFETCH;
    if (chunk->end == size) {
        dequeue(engine, request);
    }
    request->issued = chunk->end;
    request->in_flight++;
    engine->prefetch_in_flight += chunk->prefetch;
    engine->counters.chunks++;
    if (request->state == FB_IO_QUEUED) {
        transition(engine, request, FB_IO_ACTIVE);
    }
    return chunk;
}

/* The chunk to issue next: a retry, else demand, else prefetch. NULL: none, or no room. */
static struct chunk *next_chunk(struct fb_io_engine *engine)
{
    struct chunk *chunk = engine->again;
    if (chunk) {
        engine->again = chunk->next;
        return chunk;
    }
    struct fb_io_request *request = engine->waiting[FB_IO_DEMAND].head;
    if (!request && engine->prefetch_in_flight < engine->prefetch_depth) {
        request = engine->waiting[FB_IO_PREFETCH].head;
    }
    return request && engine->free ? cut_chunk(engine, request) : NULL;
}

static void start_chunk(struct fb_io_engine *engine, struct chunk *chunk)
{
    struct fb_io_request *request = chunk->request;
    struct fb_file *file = request->file;
    uint64_t delta = fb_io_delta(request->offset);
    uint64_t end = chunk->end;
    chunk->from = chunk->begin;
    chunk->read.direct =
        engine->direct && file->fd_direct >= 0 && !file->direct_refused && !chunk->buffered;
    if (!chunk->read.direct) {
        chunk->from = fb_max(chunk->begin, delta);
        end = wanted_end(chunk);
    }
    chunk->read.fd = chunk->read.direct ? file->fd_direct : file->fd;
    chunk->read.buffer = (char *)request->buffer + chunk->from;
    chunk->read.offset = request->offset - delta + chunk->from;
    chunk->read.length = (uint32_t)(end - chunk->from);
    if (engine->in_flight++ == 0) {
        engine->busy_since_ns = fb_io_now_ns(engine);
    }
    engine->queue->method->start(engine->queue, &chunk->read);
}

/* Issues as many chunks as the depth allows. */
static void pump(struct fb_io_engine *engine)
{
    struct chunk *chunk = next_chunk(engine);
    if (!chunk) {
        return;
    }
    do {
        start_chunk(engine, chunk);
    } while ((chunk = next_chunk(engine)));
    engine->queue->method->flush(engine->queue);
}

/* --- Results -------------------------------------------------------------------------------- */

/* Stops issuing a request whose error is set. */
static void stop_request(struct fb_io_engine *engine, struct fb_io_request *request, bool queued)
{
    if (queued) {
        dequeue(engine, request);
    }
    if (request->in_flight == 0) {
        transition(engine, request, FB_IO_FAILED);
    }
}

/* Frees a chunk that is complete, or whose request is failing. */
static void retire_chunk(struct fb_io_engine *engine, struct chunk *chunk)
{
    struct fb_io_request *request = chunk->request;
    engine->prefetch_in_flight -= chunk->prefetch;
    chunk->next = engine->free;
    engine->free = chunk;
    if (--request->in_flight > 0 || is_queued(request)) {
        return;
    }
    transition(engine, request, request->error.status != FOREBAY_OK ? FB_IO_FAILED : FB_IO_DONE);
}

static void fail_chunk(struct fb_io_engine *engine, struct chunk *chunk, int errnum)
{
    struct fb_io_request *request = chunk->request;
    if (request->error.status == FOREBAY_OK) {
        bool queued = is_queued(request);
        if (errnum) {
            fb_file_fail_read(request->file, chunk->read.offset, errnum, &request->error);
        } else {
            fb_file_fail_short(request->file, request->offset, request->length, &request->error);
        }
        stop_request(engine, request, queued); /* this chunk is still counted: not FAILED yet */
    }
    retire_chunk(engine, chunk);
}

static void retry_chunk(struct fb_io_engine *engine, struct chunk *chunk)
{
    if (chunk->request->error.status != FOREBAY_OK) {
        retire_chunk(engine, chunk);
        return;
    }
    engine->counters.retries++;
    chunk->next = engine->again;
    engine->again = chunk;
}

/* After `chunk->read.result` bytes (> 0): the chunk is complete, or goes back for the rest. */
static void advance_chunk(struct fb_io_engine *engine, struct chunk *chunk)
{
    uint64_t reached = chunk->from + (uint64_t)chunk->read.result;
    engine->counters.read_bytes += (uint64_t)chunk->read.result;
    if (reached >= wanted_end(chunk)) {
        retire_chunk(engine, chunk);
        return;
    }
    uint64_t begin = chunk->read.direct ? fb_round_down(reached, FB_BLOCK_BYTES) : reached;
    if (begin == chunk->begin) {
        chunk->buffered = true;
        begin = reached;
    }
    chunk->begin = begin;
    chunk->tries = 0;
    retry_chunk(engine, chunk);
}

/* The file system accepted O_DIRECT at open but refuses reads: use the page cache for this file. */
static void refuse_direct(struct fb_file *file)
{
    if (!file->direct_refused) {
        file->direct_refused = true;
        fb_warn("%s: direct reads do not work here; reading through the page cache", file->path);
    }
}

static void handle_result(struct fb_io_engine *engine, struct chunk *chunk)
{
    int64_t result = chunk->read.result;
    if (result > 0) {
        advance_chunk(engine, chunk);
    } else if ((result == -EINTR || result == -EAGAIN) && ++chunk->tries < MAX_TRIES) {
        retry_chunk(engine, chunk);
    } else if (result == -EINVAL && chunk->read.direct) {
        refuse_direct(chunk->request->file);
        retry_chunk(engine, chunk);
    } else {
        fail_chunk(engine, chunk, (int)-result);
    }
}

/* Handles the reads that the method has finished. */
static void collect(struct fb_io_engine *engine, bool wait)
{
    if (engine->in_flight == 0) {
        return;
    }
    struct fb_io_read *read = engine->queue->method->reap(engine->queue, wait);
    while (read) {
        struct fb_io_read *next = read->next;
        if (--engine->in_flight == 0) {
            engine->counters.busy_ns += fb_io_now_ns(engine) - engine->busy_since_ns;
        }
        handle_result(engine, (struct chunk *)read);
        read = next;
    }
}

/* One round: handles finished reads, then issues more. */
static void turn(struct fb_io_engine *engine, bool wait)
{
    collect(engine, wait);
    pump(engine);
}

/* --- The interface -------------------------------------------------------------------------- */

struct fb_io_engine *fb_io_engine_new(
    const struct fb_io_options *options, struct fb_io_queue *queue)
{
    struct fb_io_engine *engine = fb_xcalloc(1, sizeof *engine);
    engine->queue = queue;
    engine->chunk_bytes = options->chunk_bytes ? options->chunk_bytes : DEFAULT_CHUNK_BYTES;
    engine->direct = options->direct;
    uint32_t most = PREFETCH_BYTES / engine->chunk_bytes;
    most = queue->depth / 2 < most ? queue->depth / 2 : most;
    engine->prefetch_depth = most > 0 ? most : 1;
    engine->all = fb_xcalloc(queue->depth, sizeof *engine->all);
    for (uint32_t i = 0; i < queue->depth; i++) {
        engine->all[i].next = engine->free;
        engine->free = &engine->all[i];
    }
    return engine;
}

enum forebay_status fb_io_open(
    const struct fb_io_options *options, struct fb_io_engine **out, struct forebay_error *err)
{
    struct fb_io_queue *queue;
    enum forebay_status status = fb_io_queue_open(options, &queue, err);
    if (status == FOREBAY_OK) {
        *out = fb_io_engine_new(options, queue);
    }
    return status;
}

void fb_io_free(struct fb_io_engine *engine)
{
    if (!engine) {
        return;
    }
    for (int p = 0; p < 2; p++) {
        struct fb_io_request *request;
        while ((request = engine->waiting[p].head)) {
            if (fb_io_cancel(engine, request)) {
                continue;
            }
            fb_fail(&request->error, FOREBAY_E_CANCELLED, "", "the read of %s was cancelled",
                request->file->path);
            stop_request(engine, request, true);
        }
    }
    while (engine->in_flight || engine->again) {
        turn(engine, true);
    }
    engine->queue->method->free(engine->queue);
    free(engine->all);
    free(engine);
}

const char *fb_io_method_name(const struct fb_io_engine *engine)
{
    return engine->queue->name;
}

bool fb_io_is_virtual(const struct fb_io_engine *engine)
{
    return engine->queue->method->now_ns != NULL;
}

uint64_t fb_io_now_ns(const struct fb_io_engine *engine)
{
    return fb_io_is_virtual(engine) ? engine->queue->method->now_ns(engine->queue) : fb_now_ns();
}

void fb_io_submit(struct fb_io_engine *engine, struct fb_io_request *request)
{
    uint64_t size = request->file->size;
    FB_ASSERT(request->length > 0 && (uintptr_t)request->buffer % FB_BLOCK_BYTES == 0);
    transition(engine, request, FB_IO_QUEUED);
    request->issued = 0;
    request->in_flight = 0;
    request->error.status = FOREBAY_OK;
    engine->counters.requests++;
    if (request->offset > size || request->length > size - request->offset) {
        fb_file_fail_short(request->file, request->offset, request->length, &request->error);
        transition(engine, request, FB_IO_FAILED);
        return;
    }
    enqueue(engine, request);
    turn(engine, false);
}

bool fb_io_cancel(struct fb_io_engine *engine, struct fb_io_request *request)
{
    if (request->state != FB_IO_QUEUED) {
        return false;
    }
    dequeue(engine, request);
    transition(engine, request, FB_IO_IDLE);
    return true;
}

void fb_io_promote(struct fb_io_engine *engine, struct fb_io_request *request)
{
    if (request->priority == FB_IO_DEMAND) {
        return;
    }
    bool queued = is_queued(request);
    if (queued) {
        dequeue(engine, request);
    }
    request->priority = FB_IO_DEMAND;
    if (queued) {
        enqueue(engine, request);
        pump(engine);
    }
}

int fb_io_poll(struct fb_io_engine *engine)
{
    uint64_t before = engine->finished;
    if (engine->in_flight) {
        turn(engine, false);
    }
    return (int)(engine->finished - before);
}

enum forebay_status fb_io_wait(
    struct fb_io_engine *engine, struct fb_io_request *request, struct forebay_error *err)
{
    FB_ASSERT(request->state != FB_IO_IDLE);
    fb_io_promote(engine, request);
    while (request->state == FB_IO_QUEUED || request->state == FB_IO_ACTIVE) {
        FB_ASSERT(engine->in_flight);
        turn(engine, true);
    }
    if (request->state == FB_IO_DONE) {
        return FOREBAY_OK;
    }
    if (err) {
        *err = request->error;
    }
    return request->error.status;
}

void fb_io_wait_any(struct fb_io_engine *engine)
{
    uint64_t before = engine->finished;
    while (engine->finished == before && engine->in_flight) {
        turn(engine, true);
    }
}

void fb_io_counters(const struct fb_io_engine *engine, struct fb_io_counters *out)
{
    *out = engine->counters;
    if (engine->in_flight) {
        out->busy_ns += fb_io_now_ns(engine) - engine->busy_since_ns;
    }
}
