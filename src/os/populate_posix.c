/* populate_posix.c - see populate.h. */
#include "os/populate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/thread.h"

#define PIECE (16 * ST_MIB) /* what may be waited for, of a thread that gives way */

struct st_populator {
    struct st_vm_range *pieces;
    int n;
    atomic_int next;
    _Atomic uint64_t begun; /* bytes */
    pthread_t thread;
    bool running;
};

static bool take_piece(struct st_populator *p)
{
    int i = atomic_fetch_add(&p->next, 1);
    if (i >= p->n) {
        atomic_store(&p->next, p->n); /* or it would count on */
        return false;
    }
    atomic_fetch_add(&p->begun, p->pieces[i].bytes);
    st_vm_populate(p->pieces[i].base, p->pieces[i].bytes);
    return true;
}

static void *run(void *arg)
{
    st_thread_give_way();
    while (take_piece(arg)) {
    }
    return NULL;
}

struct st_populator *st_populator_start(const struct st_vm_range *ranges, int n)
{
    struct st_populator *p = st_xcalloc(1, sizeof *p);
    for (int i = 0; i < n; i++) {
        p->n += (int)((ranges[i].bytes + PIECE - 1) / PIECE);
    }
    p->pieces = st_xcalloc((size_t)p->n + 1, sizeof *p->pieces);
    struct st_vm_range *piece = p->pieces;
    for (int i = 0; i < n; i++) {
        for (uint64_t at = 0; at < ranges[i].bytes; at += PIECE) {
            *piece++ = (struct st_vm_range){
                (char *)ranges[i].base + at, st_min(PIECE, ranges[i].bytes - at)};
        }
    }
    p->running = p->n > 0 && st_thread_start(&p->thread, run, p) == 0;
    return p;
}

static void join(struct st_populator *p)
{
    if (p->running) {
        pthread_join(p->thread, NULL);
        p->running = false;
    }
}

bool st_populator_help(struct st_populator *p, uint64_t *done)
{
    bool any = take_piece(p);
    if (!any) {
        join(p);
    }
    *done = atomic_load(&p->begun);
    return any;
}

void st_populator_end(struct st_populator *p)
{
    if (!p) {
        return;
    }
    atomic_store(&p->next, p->n);
    join(p);
    free(p->pieces);
    free(p);
}
