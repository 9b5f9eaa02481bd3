/*
 * populate_posix.c - see populate.h. Ranges are cut into pieces, and each piece is a small state machine:
 *
 *      waiting ---> busy ---> done          taken by the thread or by fb_populator_help
 *         |  ^-------'                      given back: there is no room, or only its end is withdrawn
 *         '-----------------> done          withdrawn
 *
 * Only the one who made a piece busy touches it.
 */
#include "os/populate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/thread.h"

#define PIECE (16 * FB_MIB) /* what may be waited for, of a thread that gives way */

enum piece_state { WAITING, BUSY, DONE };

struct piece {
    char *base;
    uint64_t bytes;
    atomic_int state;
};

struct fb_populator {
    struct piece *pieces;
    int n;
    atomic_bool stop;
    _Atomic uint64_t begun; /* bytes */
    pthread_t thread;
    bool running;
};

static void nap(void)
{
    nanosleep(&(struct timespec){0, 2000000}, NULL);
}

static bool change(struct piece *piece, int from, int to)
{
    return atomic_compare_exchange_strong(&piece->state, &from, to);
}

static bool is_room(uint64_t bytes)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    return fb_memory_headroom(&state) >= fb_memory_reserve(&state) + bytes;
}

static enum fb_populated take_piece(struct fb_populator *p)
{
    bool busy = false;
    for (int i = 0; i < p->n; i++) {
        struct piece *piece = &p->pieces[i];
        if (change(piece, WAITING, BUSY)) {
            if (!is_room(piece->bytes)) {
                atomic_store(&piece->state, WAITING);
                return FB_POPULATED_NO_ROOM;
            }
            atomic_fetch_add(&p->begun, piece->bytes);
            fb_vm_populate(piece->base, piece->bytes);
            atomic_store(&piece->state, DONE);
            return FB_POPULATED_PIECE;
        }
        busy = busy || atomic_load(&piece->state) == BUSY;
    }
    if (busy) {
        nap();
    }
    return busy ? FB_POPULATED_PIECE : FB_POPULATED_ALL;
}

static void *run(void *arg)
{
    struct fb_populator *p = arg;
    fb_thread_lower_priority();
    while (!atomic_load(&p->stop)) {
        enum fb_populated got = take_piece(p);
        if (got == FB_POPULATED_ALL) {
            break;
        }
        if (got == FB_POPULATED_NO_ROOM) {
            nap();
        }
    }
    return NULL;
}

struct fb_populator *fb_populator_start(const struct fb_vm_range *ranges, int n)
{
    struct fb_populator *p = fb_xcalloc(1, sizeof *p);
    for (int i = 0; i < n; i++) {
        p->n += (int)((ranges[i].bytes + PIECE - 1) / PIECE);
    }
    p->pieces = fb_xcalloc((size_t)p->n + 1, sizeof *p->pieces);
    struct piece *piece = p->pieces;
    for (int i = 0; i < n; i++) {
        for (uint64_t at = 0; at < ranges[i].bytes; at += PIECE) {
            piece->base = (char *)ranges[i].base + at;
            piece->bytes = fb_min(PIECE, ranges[i].bytes - at);
            piece++;
        }
    }
    p->running = p->n > 0 && fb_thread_start(&p->thread, run, p) == 0;
    return p;
}

enum fb_populated fb_populator_help(struct fb_populator *p, uint64_t *done)
{
    enum fb_populated got = take_piece(p);
    *done = atomic_load(&p->begun);
    return got;
}

void fb_populator_withdraw(struct fb_populator *p, void *base, uint64_t bytes)
{
    char *from = base, *to = from + bytes;
    for (int i = 0; p && i < p->n; i++) {
        struct piece *piece = &p->pieces[i];
        if (piece->base >= to || piece->base + PIECE <= from) {
            continue;
        }
        while (!change(piece, WAITING, BUSY) && atomic_load(&piece->state) != DONE) {
            nap();
        }
        if (atomic_load(&piece->state) == DONE) {
            continue;
        }
        if (piece->base < from) { /* the end of the piece */
            piece->bytes = fb_min(piece->bytes, (uint64_t)(from - piece->base));
        }
        atomic_store(&piece->state, piece->base < from ? WAITING : DONE);
    }
}

void fb_populator_end(struct fb_populator *p)
{
    if (!p) {
        return;
    }
    atomic_store(&p->stop, true);
    if (p->running) {
        pthread_join(p->thread, NULL);
    }
    free(p->pieces);
    free(p);
}
