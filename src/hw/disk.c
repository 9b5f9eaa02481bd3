#include "hw/disk.h"

#include <stdlib.h>

#include "base/units.h"
#include "os/memory.h"

#define CHUNK ST_MIB
#define DEPTH 32

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

double st_disk_bandwidth(
    struct st_file *const *files, int n_files, const struct st_io_options *io, double seconds)
{
    struct st_file *file = largest(files, n_files);
    struct st_io_engine *engine;
    char *memory = st_vm_reserve(DEPTH * CHUNK, true);
    if (!memory || st_io_open(io, &engine, NULL) != STRATA_OK) {
        st_vm_release(memory, DEPTH * CHUNK);
        return 0;
    }
    uint64_t length = st_min(CHUNK, file->size), seed = 0x9e3779b97f4a7c15u, bytes = 0;
    struct st_io_request *requests = calloc(DEPTH, sizeof *requests);
    uint64_t start = st_now_ns(), end = start + (uint64_t)(seconds * 1e9), now = start;
    bool failed = !requests;
    while (!failed && now < end) {
        for (int i = 0; i < DEPTH && !failed; i++) {
            struct st_io_request *r = &requests[i];
            failed = r->state == ST_IO_FAILED;
            if (r->state == ST_IO_IDLE || r->state == ST_IO_DONE) {
                bytes += r->state == ST_IO_DONE ? length : 0;
                *r = (struct st_io_request){.file = file, .length = length};
                r->offset = next_random(&seed) % (file->size / length) * length;
                r->buffer = memory + (uint64_t)i * CHUNK;
                st_io_submit(engine, r);
            }
        }
        st_io_wait_any(engine);
        now = st_now_ns();
    }
    st_io_free(engine);
    st_vm_release(memory, DEPTH * CHUNK);
    free(requests);
    return failed || now == start ? 0 : (double)bytes / ((double)(now - start) * 1e-9);
}
