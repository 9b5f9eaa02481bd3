/* disk.c - see disk.h. The sustained speed is the slope of bytes read over time; see measure(). */
#include "hw/disk.h"

#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/random.h"
#include "base/units.h"
#include "os/memory.h"

#define MAX_DEPTH   16
#define AGREE       0.02        /* the slope has settled when it changes by less than this */
#define LONGEST     5           /* times the seconds asked for */
#define BURST_BYTES (16u << 20) /* the burst rate is that of the first so many bytes */

static struct fb_file *largest(struct fb_file *const *files, int n_files)
{
    struct fb_file *best = files[0];
    for (int i = 1; i < n_files; i++) {
        best = files[i]->size > best->size ? files[i] : best;
    }
    return best;
}

static double cpu_seconds(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct disk_probe {
    struct fb_io_engine *engine;
    struct fb_file *file;
    char *memory;
    struct fb_io_request requests[MAX_DEPTH];
    uint32_t depth;
    uint64_t length, room, seed, bytes;
    bool failed;
};

/* Counts finished reads and, while `more`, submits new ones. Returns the number of reads in
 * flight. */
static int turn(struct disk_probe *p, bool more)
{
    int open = 0;
    for (uint32_t i = 0; i < p->depth; i++) {
        struct fb_io_request *r = &p->requests[i];
        if (r->state == FB_IO_DONE) {
            p->bytes += p->length;
            r->state = FB_IO_IDLE;
        }
        p->failed |= r->state == FB_IO_FAILED;
        if (r->state == FB_IO_IDLE && more) {
            *r = (struct fb_io_request){.file = p->file, .length = p->length};
            r->offset = fb_random_next(&p->seed) % (p->file->size / p->length) * p->length;
            r->buffer = p->memory + i * p->room;
            fb_io_submit(p->engine, r);
        }
        open += r->state == FB_IO_QUEUED || r->state == FB_IO_ACTIVE;
    }
    return open;
}

/* Sums for a line through (time, bytes read), by least squares. */
struct fit_line {
    double n, t, b, tt, tb;
};

static void add_point(struct fit_line *l, double t, double bytes)
{
    l->n++;
    l->t += t;
    l->b += bytes;
    l->tt += t * t;
    l->tb += t * bytes;
}

static double slope(const struct fit_line *l)
{
    double d = l->n * l->tt - l->t * l->t;
    return l->n > 2 && d > 0 ? (l->n * l->tb - l->t * l->b) / d : 0;
}

/* Rate limits (of a container or a cloud) allow a burst at first, so the first `seconds` do not
 * count. After that the result is the slope of bytes read over time, as soon as it has settled, or
 * after LONGEST times `seconds`. */
static void measure(struct disk_probe *p, double seconds, struct fb_disk_speed *out)
{
    uint64_t start = fb_now_ns();
    struct fit_line line = {0};
    double t = 0, checked = seconds, last = 0;
    bool more = true;
    while ((turn(p, more) > 0 || more) && !p->failed) {
        fb_io_wait_any(p->engine);
        t = (double)(fb_now_ns() - start) * 1e-9;
        if (out->burst == 0 && p->bytes >= BURST_BYTES) {
            out->burst = (double)p->bytes / t;
        }
        /* Not more bytes than the file has: reads would repeat, and a cache could serve them. */
        more = more && t < LONGEST * seconds && p->bytes < p->file->size;
        if (more && t >= seconds) {
            add_point(&line, t, (double)p->bytes);
        }
        if (more && t >= checked + seconds / 2) {
            double now = slope(&line);
            more = now < last * (1 - AGREE) || now > last * (1 + AGREE);
            last = now;
            checked = t;
        }
    }
    double average = t > 0 ? (double)p->bytes / t : 0;
    /* The average, if there were too few points for a slope. */
    out->sustained = p->failed ? 0 : last > 0 ? last : average;
    out->burst = p->failed ? 0 : out->burst > out->sustained ? out->burst : out->sustained;
}

struct fb_disk_speed fb_disk_measure(struct fb_file *const *files, int n_files,
    const struct fb_io_options *io, uint32_t block, uint32_t depth, double seconds)
{
    struct disk_probe *p = fb_xcalloc(1, sizeof *p);
    struct fb_disk_speed speed = {0};
    p->file = largest(files, n_files);
    p->depth = depth < MAX_DEPTH ? depth : MAX_DEPTH;
    p->length =
        fb_min(fb_min(block, fb_max(p->file->size / p->depth, FB_BLOCK_BYTES)), p->file->size);
    p->room = fb_round_up(p->length, FB_BLOCK_BYTES) + 2 * FB_BLOCK_BYTES; /* its envelope */
    p->seed = fb_now_ns(); /* other blocks than last time: those may be in a cache of the disk */
    p->memory = p->length > 0 ? fb_vm_reserve(p->depth * p->room, true) : NULL;
    if (p->memory && fb_io_open(io, &p->engine, NULL) == FOREBAY_OK) {
        /* Or the first reads would include page faults. */
        fb_vm_populate(p->memory, p->depth * p->room);
        double before = cpu_seconds();
        measure(p, seconds, &speed);
        speed.cpu_s = p->bytes > 0 ? (cpu_seconds() - before) / (double)p->bytes : 0;
        fb_io_free(p->engine);
    }
    if (p->memory) {
        fb_vm_release(p->memory, p->depth * p->room);
    }
    free(p);
    return speed;
}
