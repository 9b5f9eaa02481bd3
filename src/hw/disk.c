#include "hw/disk.h"

#include <stdlib.h>

#include "base/units.h"
#include "os/memory.h"

#define CHUNK ST_MIB
#define DEPTH 16
#define ROOM  (CHUNK + 2 * ST_IO_ALIGN) /* for the envelope of a chunk */

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
    struct st_io_request requests[DEPTH];
    uint64_t length, seed, bytes;
    bool failed;
};

/* Counts what is done and, while `more`, asks for the next. Returns reads still under way. */
static int turn(struct probe *p, bool more)
{
    int open = 0;
    for (int i = 0; i < DEPTH; i++) {
        struct st_io_request *r = &p->requests[i];
        if (r->state == ST_IO_DONE) {
            p->bytes += p->length;
            r->state = ST_IO_IDLE;
        }
        p->failed |= r->state == ST_IO_FAILED;
        if (r->state == ST_IO_IDLE && more) {
            *r = (struct st_io_request){.file = p->file, .length = p->length};
            r->offset = next_random(&p->seed) % (p->file->size / p->length) * p->length;
            r->buffer = p->memory + (uint64_t)i * ROOM;
            st_io_submit(p->engine, r);
        }
        open += r->state == ST_IO_QUEUED || r->state == ST_IO_ACTIVE;
    }
    return open;
}

double st_disk_bandwidth(
    struct st_file *const *files, int n_files, const struct st_io_options *io, double seconds)
{
    struct probe *p = calloc(1, sizeof *p);
    double rate = 0;
    if (!p) {
        return 0;
    }
    p->file = largest(files, n_files);
    p->length = st_min(st_min(CHUNK, st_max(p->file->size / DEPTH, ST_IO_ALIGN)), p->file->size);
    p->seed = 0x9e3779b97f4a7c15u;
    p->memory = st_vm_reserve(DEPTH * ROOM, true);
    if (p->memory && st_io_open(io, &p->engine, NULL) == STRATA_OK) {
        st_vm_populate(p->memory, DEPTH * ROOM); /* or the first reads would wait for pages */
        uint64_t start = st_now_ns(), end = start + (uint64_t)(seconds * 1e9), now = start;
        bool more = true;
        while ((turn(p, more) > 0 || more) && !p->failed) {
            st_io_wait_any(p->engine);
            now = st_now_ns();
            more = now < end && p->bytes < p->file->size; /* more would measure caches */
        }
        rate = p->failed ? 0 : (double)p->bytes / ((double)(now - start) * 1e-9);
        st_io_free(p->engine);
    }
    if (p->memory) {
        st_vm_release(p->memory, DEPTH * ROOM);
    }
    free(p);
    return rate;
}
