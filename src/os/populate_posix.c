/* populate_posix.c - see populate.h. */
#include "os/populate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/thread.h"

#define PIECE (16 * FB_MIB) /* the most that help and end wait for the low-priority thread */

struct fb_populator {
    struct fb_vm_range *pieces;
    int n;
    atomic_int next;
    _Atomic uint64_t begun; /* bytes of pieces that were claimed */
    pthread_t thread;
    bool running;
};

static bool populate_piece(struct fb_populator *p)
{
    int i = atomic_fetch_add(&p->next, 1);
    if (i >= p->n) {
        atomic_store(&p->next, p->n); /* or it could overflow */
        return false;
    }
    atomic_fetch_add(&p->begun, p->pieces[i].bytes);
    fb_vm_populate(p->pieces[i].base, p->pieces[i].bytes);
    return true;
}

static void *run(void *arg)
{
    fb_thread_lower_priority();
    while (populate_piece(arg)) {
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
    struct fb_vm_range *piece = p->pieces;
    for (int i = 0; i < n; i++) {
        for (uint64_t at = 0; at < ranges[i].bytes; at += PIECE) {
            *piece++ = (struct fb_vm_range){
                (char *)ranges[i].base + at, fb_min(PIECE, ranges[i].bytes - at)};
        }
    }
    p->running = p->n > 0 && fb_thread_start(&p->thread, run, p) == 0;
    return p;
}

static void join(struct fb_populator *p)
{
    if (p->running) {
        pthread_join(p->thread, NULL);
        p->running = false;
    }
}

bool fb_populator_help(struct fb_populator *p, uint64_t *done)
{
    bool any = populate_piece(p);
    if (!any) {
        join(p);
    }
    *done = atomic_load(&p->begun);
    return any;
}

void fb_populator_end(struct fb_populator *p)
{
    if (!p) {
        return;
    }
    atomic_store(&p->next, p->n);
    join(p);
    free(p->pieces);
    free(p);
}
