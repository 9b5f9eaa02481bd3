/*
 * sim.c - a method that moves no bytes: a disk that serves one read after another at a given rate,
 * on a virtual clock. For simulations; needs st_io_options.virtual_disk.
 *
 *      start at now --> turn begins: max(now, end of the turn before)
 *                   --> turn ends:   begin + bytes / rate
 *                   --> due:         end + latency        (the next turn need not wait for that)
 *
 * Time stands still while the caller works with us, except that reap with `wait` moves the clock to
 * the first due read. Reads finish in the order in which they were started.
 */
#include "io/method.h"

#include "base/error.h"
#include "base/units.h"

#include <stdlib.h>

struct sim {
    struct st_io_queue base;
    struct st_io_virtual *disk;
    double free_at; /* end of the last turn, in ns; a fraction must not get lost in every read */
    struct st_io_read *head, *tail; /* not delivered, in the order of their start; tag: when due */
};

static enum strata_status sim_open(const char *spec, const struct st_io_options *options,
    uint32_t depth, struct st_io_queue **out, struct strata_error *err)
{
    (void)spec;
    const struct st_io_virtual *disk = options->virtual_disk;
    if (!disk || !(disk->bytes_per_s > 0)) {
        return st_fail(err, STRATA_E_USAGE, "", "the virtual disk has no bandwidth");
    }
    struct sim *sim = st_xcalloc(1, sizeof *sim);
    sim->base = (struct st_io_queue){&st_io_method_sim, depth, st_io_method_sim.name};
    sim->disk = options->virtual_disk;
    *out = &sim->base;
    return STRATA_OK;
}

static void sim_free(struct st_io_queue *queue)
{
    free(queue);
}

static void sim_start(struct st_io_queue *queue, struct st_io_read *read)
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

static void sim_flush(struct st_io_queue *queue)
{
    (void)queue;
}

static struct st_io_read *sim_reap(struct st_io_queue *queue, bool wait)
{
    struct sim *sim = (struct sim *)queue;
    struct st_io_read *first = sim->head, *last = NULL;
    if (wait && first) {
        sim->disk->now_ns = st_max(sim->disk->now_ns, first->tag);
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

static uint64_t sim_now_ns(const struct st_io_queue *queue)
{
    return ((const struct sim *)queue)->disk->now_ns;
}

const struct st_io_method st_io_method_sim = {
    .name = "sim",
    .default_depth = 64,
    .open = sim_open,
    .free = sim_free,
    .start = sim_start,
    .flush = sim_flush,
    .reap = sim_reap,
    .now_ns = sim_now_ns,
};
