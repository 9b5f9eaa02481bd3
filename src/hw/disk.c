#include "hw/disk.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"

#define MAX_DEPTH 16
#define AGREE     0.05
#define LONGEST   5

/* A small generator of its own: probing must not disturb anyone's random numbers. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static struct st_file *largest(struct st_file *const *files, int n_files)
{
    struct st_file *best = files[0];
    for (int i = 1; i < n_files; i++) {
        best = files[i]->size > best->size ? files[i] : best;
    }
    return best;
}

struct probe {
    struct st_io_engine *engine;
    struct st_file *file;
    char *memory;
    struct st_io_request requests[MAX_DEPTH];
    uint32_t depth;
    uint64_t length, room, seed, bytes;
    bool failed;
};

/* Counts what is done and, while `more`, asks for the next. Returns reads still under way. */
static int turn(struct probe *p, bool more)
{
    int open = 0;
    for (uint32_t i = 0; i < p->depth; i++) {
        struct st_io_request *r = &p->requests[i];
        if (r->state == ST_IO_DONE) {
            p->bytes += p->length;
            r->state = ST_IO_IDLE;
        }
        p->failed |= r->state == ST_IO_FAILED;
        if (r->state == ST_IO_IDLE && more) {
            *r = (struct st_io_request){.file = p->file, .length = p->length};
            r->offset = next_random(&p->seed) % (p->file->size / p->length) * p->length;
            r->buffer = p->memory + i * p->room;
            st_io_submit(p->engine, r);
        }
        open += r->state == ST_IO_QUEUED || r->state == ST_IO_ACTIVE;
    }
    return open;
}

/* Bytes per second once they stay the same: limits on the disk (of a container, of a cloud) let more
 * through at first than they will. Windows of half the time asked for, until two in a row agree, at
 * most LONGEST times as long as asked for. */
static double measure(struct probe *p, double seconds)
{
    uint64_t now = st_now_ns(), end = now + (uint64_t)(LONGEST * seconds * 1e9), from = now;
    uint64_t window = (uint64_t)(seconds / 2 * 1e9), before = 0;
    double rate = 0, last = 0;
    bool more = true;
    while ((turn(p, more) > 0 || more) && !p->failed) {
        st_io_wait_any(p->engine);
        now = st_now_ns();
        more = more && now < end && p->bytes < p->file->size; /* more would measure caches */
        if (more && now - from >= window) {
            last = rate;
            rate = (double)(p->bytes - before) / ((double)(now - from) * 1e-9);
            from = now;
            before = p->bytes;
            more = last < rate * (1 - AGREE) || last > rate * (1 + AGREE);
        }
    }
    if (rate == 0) { /* too slow, or too little, for a window */
        rate = (double)p->bytes / ((double)st_max(now - from, 1) * 1e-9);
    }
    return p->failed ? 0 : rate;
}

double st_disk_rate(struct st_file *const *files, int n_files, const struct st_io_options *io,
    uint32_t block, uint32_t depth, double seconds)
{
    struct probe *p = st_xcalloc(1, sizeof *p);
    double rate = 0;
    p->file = largest(files, n_files);
    p->depth = depth < MAX_DEPTH ? depth : MAX_DEPTH;
    p->length = st_min(st_min(block, st_max(p->file->size / p->depth, ST_IO_ALIGN)), p->file->size);
    p->room = st_round_up(p->length, ST_IO_ALIGN) + 2 * ST_IO_ALIGN; /* its envelope */
    p->seed = 0x9e3779b97f4a7c15u ^ st_now_ns(); /* not what the last one left in a disk's cache */
    p->memory = p->length > 0 ? st_vm_reserve(p->depth * p->room, true) : NULL;
    if (p->memory && st_io_open(io, &p->engine, NULL) == STRATA_OK) {
        st_vm_populate(p->memory, p->depth * p->room); /* or the first reads would wait for pages */
        rate = measure(p, seconds);
        st_io_free(p->engine);
    }
    if (p->memory) {
        st_vm_release(p->memory, p->depth * p->room);
    }
    free(p);
    return rate;
}
