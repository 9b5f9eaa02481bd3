/*
 * simulated.c - a method that moves no bytes: a disk that serves one read after another at a given
 * rate, on a virtual clock. For simulations; needs fb_io_options.virtual_disk.
 *
 *      start at now --> service begins: max(now, end of the service before)
 *                   --> service ends:   begin + bytes / rate
 *                   --> due:            end + latency     (the next read is served meanwhile)
 *
 * The clock stands still inside calls, except that reap with `wait` advances it to the time when
 * the first read is due. Reads finish in the order in which they were started.
 */
#include "io/method.h"

#include "base/error.h"
#include "base/units.h"

#include <stdlib.h>

struct sim {
    struct fb_io_queue base;
    struct fb_io_virtual *disk;
    double free_at; /* end of the last service, ns; keeps the fraction that each read adds */
    struct fb_io_read *head, *tail; /* not delivered, in starting order; tag: when due */
};

static enum forebay_status sim_open(const char *spec, const struct fb_io_options *options,
    uint32_t depth, struct fb_io_queue **out, struct forebay_error *err)
{
    (void)spec;
    const struct fb_io_virtual *disk = options->virtual_disk;
    if (!disk || !(disk->bytes_per_s > 0)) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "the virtual disk has no bandwidth");
    }
    struct sim *sim = fb_xcalloc(1, sizeof *sim);
    sim->base = (struct fb_io_queue){&fb_io_method_sim, depth, fb_io_method_sim.name};
    sim->disk = options->virtual_disk;
    *out = &sim->base;
    return FOREBAY_OK;
}

static void sim_free(struct fb_io_queue *queue)
{
    free(queue);
}

static void sim_start(struct fb_io_queue *queue, struct fb_io_read *read)
{
    struct sim *sim = (struct sim *)queue;
    double now = (double)sim->disk->now_ns;
    double begin = sim->free_at > now ? sim->free_at : now;
    sim->free_at = begin + (double)read->length / sim->disk->bytes_per_s * 1e9;
    read->tag = (uint64_t)(sim->free_at + 0.5) + sim->disk->latency_ns;
    read->result = read->length;
    read->next = NULL;
    *(sim->tail ? &sim->tail->next : &sim->head) = read;
    sim->tail = read;
}

static void sim_flush(struct fb_io_queue *queue)
{
    (void)queue;
}

static struct fb_io_read *sim_reap(struct fb_io_queue *queue, bool wait)
{
    struct sim *sim = (struct sim *)queue;
    struct fb_io_read *first = sim->head, *last = NULL;
    if (wait && first) {
        sim->disk->now_ns = fb_max(sim->disk->now_ns, first->tag);
    }
    for (; sim->head && sim->head->tag <= sim->disk->now_ns; sim->head = sim->head->next) {
        last = sim->head;
    }
    if (!last) {
        return NULL;
    }
    last->next = NULL;
    sim->tail = sim->head ? sim->tail : NULL;
    return first;
}

static uint64_t sim_now_ns(const struct fb_io_queue *queue)
{
    return ((const struct sim *)queue)->disk->now_ns;
}

const struct fb_io_method fb_io_method_sim = {
    .name = "sim",
    .default_depth = 64,
    .open = sim_open,
    .free = sim_free,
    .start = sim_start,
    .flush = sim_flush,
    .reap = sim_reap,
    .now_ns = sim_now_ns,
};
