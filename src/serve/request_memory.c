/*
 * request_memory.c - see request_memory.h. A counter of bytes and a ring of the open shares, under
 * one lock. A share that finds no room waits until another shrinks or closes. After enough has been
 * freed, the heap's free memory is returned to the system.
 */
#include "serve/request_memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/units.h"
#include "os/heap.h"
#include "os/timed_wait.h"

#define WAIT_NS (4 * (uint64_t)1000000000) /* clients expect an answer after a few seconds */

/* Shares of more than a sixteenth of the memory leave its last quarter free. */
#define SMALL_SHARE   16
#define LARGE_PART(n) ((n) / 4 * 3)

/* Returning memory to the system takes milliseconds: worth it for this much. */
#define TRIM_BYTES (4 * FB_MIB)

struct fb_request_memory {
    uint64_t bytes;
    _Atomic uint64_t freed_bytes; /* since the last trim */
    pthread_mutex_t lock;
    pthread_cond_t freed;
    /* Guarded by `lock`. */
    uint64_t used;
    struct fb_memory_share ring; /* a list head: all shares */
    bool stopped;
};

/* --- Life ---------------------------------------------------------------------------------- */

struct fb_request_memory *fb_request_memory_new(uint64_t bytes)
{
    struct fb_request_memory *m = fb_xcalloc(1, sizeof *m);
    m->bytes = bytes;
    m->ring.before = m->ring.after = &m->ring;
    pthread_mutex_init(&m->lock, NULL);
    fb_timed_wait_init(&m->freed);
    return m;
}

void fb_request_memory_free(struct fb_request_memory *m)
{
    if (m) {
        FB_ASSERT(m->ring.after == &m->ring && m->used == 0);
        pthread_cond_destroy(&m->freed);
        pthread_mutex_destroy(&m->lock);
        free(m);
    }
}

void fb_request_memory_stop(struct fb_request_memory *m)
{
    pthread_mutex_lock(&m->lock);
    m->stopped = true;
    pthread_cond_broadcast(&m->freed);
    pthread_mutex_unlock(&m->lock);
}

uint64_t fb_request_memory_most(const struct fb_request_memory *m)
{
    return LARGE_PART(m->bytes);
}

/* --- Shares -------------------------------------------------------------------------------- */

void fb_share_open(struct fb_request_memory *m, struct fb_memory_share *share, int fd)
{
    pthread_mutex_lock(&m->lock);
    *share = (struct fb_memory_share){
        .fd = fd, .receiving = true, .before = m->ring.before, .after = &m->ring};
    share->before->after = share->after->before = share;
    pthread_mutex_unlock(&m->lock);
}

void fb_share_received(struct fb_request_memory *m, struct fb_memory_share *share)
{
    pthread_mutex_lock(&m->lock);
    share->receiving = false;
    pthread_mutex_unlock(&m->lock);
}

/* With the lock held. */
static bool fits(const struct fb_request_memory *m, const struct fb_memory_share *share, uint64_t n)
{
    uint64_t others = m->used - share->bytes;
    uint64_t most = n > m->bytes / SMALL_SHARE ? LARGE_PART(m->bytes) : m->bytes;
    return others <= most && n <= most - others;
}

/* Cuts off the largest body that is being received and larger than `n`. With the lock held. */
static void cut_off_larger(struct fb_request_memory *m, uint64_t n)
{
    struct fb_memory_share *largest = NULL;
    for (struct fb_memory_share *s = m->ring.after; s != &m->ring; s = s->after) {
        if (s->receiving && s->bytes > n && (!largest || s->bytes > largest->bytes)) {
            largest = s;
        }
    }
    if (largest) {
        shutdown(largest->fd, SHUT_RDWR);
        largest->receiving = false;
        largest->cut_off = true;
        pthread_cond_broadcast(&m->freed); /* it may be waiting itself */
    }
}

/* With the lock held. */
static bool wait_for_room(struct fb_request_memory *m, struct fb_memory_share *share, uint64_t n)
{
    uint64_t until = fb_now_ns() + WAIT_NS;
    bool in_time = true;
    while (!fits(m, share, n) && in_time && !m->stopped && !share->cut_off) {
        cut_off_larger(m, n);
        in_time = fb_timed_wait(&m->freed, &m->lock, until);
    }
    return !share->cut_off && fits(m, share, n);
}

/* Returns memory to the system once enough of it has been freed. */
static void trim(struct fb_request_memory *m, uint64_t freed_bytes)
{
    if ((m->freed_bytes += freed_bytes) >= TRIM_BYTES) {
        m->freed_bytes = 0;
        fb_heap_trim();
    }
}

bool fb_share_set(struct fb_request_memory *m, struct fb_memory_share *share, uint64_t bytes)
{
    bool shrinks = bytes < share->bytes;
    if (shrinks) {
        trim(m, share->bytes - bytes); /* before others use the room */
    }
    pthread_mutex_lock(&m->lock);
    bool ok = shrinks || (bytes <= LARGE_PART(m->bytes) && wait_for_room(m, share, bytes));
    if (ok) {
        m->used = m->used - share->bytes + bytes;
        share->bytes = bytes;
    }
    if (shrinks) {
        pthread_cond_broadcast(&m->freed);
    }
    pthread_mutex_unlock(&m->lock);
    return ok;
}

void fb_share_close(struct fb_request_memory *m, struct fb_memory_share *share)
{
    fb_share_set(m, share, 0);
    pthread_mutex_lock(&m->lock);
    share->before->after = share->after;
    share->after->before = share->before;
    pthread_mutex_unlock(&m->lock);
}

/* --- Estimating ---------------------------------------------------------------------------- */

/* Measured as the growth of the process, at most: 500 bytes for a value (of messages, tools, tool
 * calls: JSON and the template's values), and 50 for a byte of text (its tokens). */
#define BYTES_PER_VALUE 600
#define BYTES_PER_BYTE  50

uint64_t fb_json_bytes(const char *json, size_t n)
{
    uint64_t values = 1; /* each value but the first follows one of these characters, or is a key */
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = json[i];
        if (in_string) {
            in_string = c != '"';
            i += c == '\\';
        } else {
            in_string = c == '"';
            values += c == ',' || c == ':' || c == '[' || c == '{';
        }
    }
    return BYTES_PER_VALUE * values + BYTES_PER_BYTE * (uint64_t)n;
}
