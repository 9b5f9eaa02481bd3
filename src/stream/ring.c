/*
 * ring.c - the queue of entries, and the learned order of use.
 *
 * Entries are a ring of their own: entries[head % MAX_ENTRIES] is the oldest of n, and their memory
 * is contiguous in the same order (fifo.h). `after` holds the learned order, `next` the weight to
 * read after the youngest entry:
 *
 *      after:   w3 -> w7 -> w2 -> w3       entries: [w3: acquired][w7]       next: w2
 */
#include "stream/ring.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "stream/fifo.h"

#define MAX_ENTRIES 64 /* power of two */

struct ring_entry {
    struct fb_io_request request;
    int weight;
    uint64_t start, end; /* bytes of the ring */
    bool demand;         /* issued when it was needed, not before */
};

struct fb_ring {
    struct fb_unpacker *unpacker;
    struct fb_io_engine *io;
    const struct fb_weights *weights;
    char *memory;
    uint64_t bytes;
    struct ring_entry entries[MAX_ENTRIES];
    unsigned head, n; /* entries[head % MAX_ENTRIES] is the oldest of n */
    bool acquired;    /* the head is in use by the caller */
    int *after;       /* [n_weights] which weight follows which; -1: not known */
    int last_scheduled;
    int next; /* weight to read next, -1: not known */
    struct fb_stream_stats stats;
};

struct fb_ring *fb_ring_new(struct fb_unpacker *unpacker, uint64_t bytes, bool populate)
{
    const struct fb_weights *weights = unpacker->weights;
    void *memory = fb_vm_reserve(bytes, true);
    if (!memory) {
        return NULL;
    }
    if (populate && !fb_io_is_virtual(unpacker->io)) {
        fb_vm_populate(memory, bytes);
    }
    struct fb_ring *ring = fb_xcalloc(1, sizeof *ring);
    ring->unpacker = unpacker;
    ring->io = unpacker->io;
    ring->weights = weights;
    ring->memory = memory;
    ring->bytes = bytes;
    ring->after = fb_xcalloc((size_t)weights->n_weights, sizeof *ring->after);
    for (int i = 0; i < weights->n_weights; i++) {
        ring->after[i] = -1;
    }
    ring->last_scheduled = -1;
    ring->next = -1;
    return ring;
}

static struct ring_entry *head(struct fb_ring *ring)
{
    return &ring->entries[ring->head % MAX_ENTRIES];
}

static void pop(struct fb_ring *ring)
{
    ring->head++;
    ring->n--;
}

/* Drops the oldest entry, read or being read. */
static void drop_head(struct fb_ring *ring)
{
    struct ring_entry *e = head(ring);
    if (!fb_io_cancel(ring->io, &e->request)) {
        fb_io_wait(ring->io, &e->request, NULL);
    }
    pop(ring);
}

static void drop_all(struct fb_ring *ring)
{
    while (ring->n > 0) {
        drop_head(ring);
    }
    ring->next = -1;
}

void fb_ring_free(struct fb_ring *ring)
{
    if (ring) {
        drop_all(ring);
        fb_vm_release(ring->memory, ring->bytes);
        free(ring->after);
        free(ring);
    }
}

/* Finds `size` bytes after the youngest entry. */
static bool allocate(struct fb_ring *ring, uint64_t size, uint64_t *start)
{
    uint64_t end = ring->entries[(ring->head + ring->n - 1) % MAX_ENTRIES].end;
    return fb_fifo_place(ring->bytes, ring->n == 0, head(ring)->start, end, size, start);
}

static bool issue(struct fb_ring *ring, int weight, bool demand)
{
    const struct fb_weight *w = &ring->weights->weights[weight];
    uint64_t offset = fb_weight_offset(ring->weights, weight, 0);
    uint64_t size = fb_io_envelope(offset, w->file_bytes);
    uint64_t start;
    if (ring->n == MAX_ENTRIES || !allocate(ring, size, &start)) {
        return false;
    }
    struct ring_entry *e = &ring->entries[(ring->head + ring->n++) % MAX_ENTRIES];
    *e = (struct ring_entry){
        .weight = weight, .start = start, .end = start + size, .demand = demand};
    e->request.file = fb_weight_file(ring->weights, weight);
    e->request.offset = offset;
    e->request.length = w->file_bytes;
    e->request.buffer = ring->memory + start;
    e->request.priority = FB_IO_DEMAND; /* prefetches too: they are needed for certain, in order */
    *(demand ? &ring->stats.demand_bytes : &ring->stats.prefetch_bytes) += w->file_bytes;
    fb_io_submit(ring->io, &e->request);
    ring->next = ring->after[weight];
    return true;
}

void fb_ring_pump(struct fb_ring *ring)
{
    while (ring->next >= 0 && issue(ring, ring->next, false)) {
    }
}

void fb_ring_schedule(struct fb_ring *ring, const int *weights, int n)
{
    for (int i = 0; i < n; i++) {
        if (ring->last_scheduled >= 0) {
            ring->after[ring->last_scheduled] = weights[i];
        }
        ring->last_scheduled = weights[i];
    }
}

/* Drops entries until the weight is the oldest. False, and all are dropped, when it was not issued.
 * */
static bool seek(struct fb_ring *ring, int weight)
{
    for (unsigned i = 0; i < ring->n; i++) {
        if (ring->entries[(ring->head + i) % MAX_ENTRIES].weight == weight) {
            while (head(ring)->weight != weight) {
                drop_head(ring);
            }
            return true;
        }
    }
    drop_all(ring);
    return false;
}

/* Waits until the entry has been read and verified. */
static enum forebay_status finish(
    struct fb_ring *ring, struct ring_entry *e, struct forebay_error *err)
{
    if (e->request.state != FB_IO_DONE) {
        uint64_t before = fb_io_now_ns(ring->io);
        fb_io_wait(ring->io, &e->request, NULL);
        uint64_t waited = fb_io_now_ns(ring->io) - before;
        ring->stats.stall_ns += waited;
        ring->stats.prefetch_stall_ns += e->demand ? 0 : waited;
    }
    return fb_unpacker_verify(ring->unpacker, &e->request, e->weight, 0, err);
}

enum forebay_status fb_ring_acquire(
    struct fb_ring *ring, int weight, const void **raw, struct forebay_error *err)
{
    FB_ASSERT(!ring->acquired);
    if (!seek(ring, weight) && !issue(ring, weight, true)) {
        FB_BUG("ring of %llu bytes is smaller than weight %d", (unsigned long long)ring->bytes,
            weight);
    }
    fb_ring_pump(ring);
    struct ring_entry *e = head(ring);
    enum forebay_status status = finish(ring, e, err);
    if (status != FOREBAY_OK) {
        drop_all(ring);
        return status;
    }
    if (!e->demand) {
        ring->stats.prefetch_used_bytes += e->request.length;
    }
    ring->acquired = true;
    *raw = (const char *)e->request.buffer + fb_io_delta(e->request.offset);
    return FOREBAY_OK;
}

void fb_ring_release(struct fb_ring *ring)
{
    FB_ASSERT(ring->acquired);
    ring->acquired = false;
    pop(ring);
    fb_ring_pump(ring);
}

void fb_ring_discard(struct fb_ring *ring)
{
    FB_ASSERT(!ring->acquired);
    drop_all(ring);
    fb_vm_discard(ring->memory, ring->bytes);
}

const struct fb_stream_stats *fb_ring_stats(const struct fb_ring *ring)
{
    return &ring->stats;
}
