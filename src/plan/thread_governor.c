#include "plan/thread_governor.h"

/* A core of which others use less than this is free: half of it would be worth a thread if threads
 * did not wait for each other. */
#define SPARE 0.4
/* ... and less than this before a thread is added. */
#define SPARE_MORE 0.25

void fb_thread_governor_init(struct fb_thread_governor *g, int most, int cores, uint64_t calm_ns)
{
    *g = (struct fb_thread_governor){
        .most = most > 1 ? most : 1,
        .cores = cores > 1 ? cores : 1,
        .threads = most > 1 ? most : 1,
        .calm_ns = calm_ns,
    };
}

/* Threads that there are free cores for, of which `spare` may be in use. */
static int room_for(const struct fb_thread_governor *g, double used, int n_cpus, double spare)
{
    /* Who asks for more threads than cores wants hyperthreads to count. */
    int cores = g->most > g->cores ? g->most : g->cores;
    cores = cores < n_cpus ? cores : n_cpus;
    double free = (double)cores * (1 - used / n_cpus) + spare;
    if (!(free > 1)) {
        return 1;
    }
    return free < g->most ? (int)free : g->most;
}

int fb_thread_governor_decide(
    struct fb_thread_governor *g, uint64_t now_ns, double used, int n_cpus)
{
    n_cpus = n_cpus > 1 ? n_cpus : 1;
    int room = room_for(g, used, n_cpus, SPARE), more = room_for(g, used, n_cpus, SPARE_MORE);
    if (room < g->threads) {
        g->threads = room;
    }
    if (more <= g->threads) {
        g->calm_threads = 0;
        return g->threads;
    }
    if (g->calm_threads == 0) {
        g->calm_since_ns = now_ns;
        g->calm_threads = more;
    }
    g->calm_threads = more < g->calm_threads ? more : g->calm_threads;
    if (now_ns - g->calm_since_ns >= g->calm_ns) {
        g->threads = g->calm_threads;
        g->calm_threads = 0;
    }
    return g->threads;
}
