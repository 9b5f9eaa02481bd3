/*
 * thread_governor.h - how many threads compute while other programs use the processors: a pure
 * function of what is observed.
 *
 * Threads that compute together wait for each other thousands of times a second, spinning. With
 * more runnable threads than processors each wait may last as long as the system lets somebody else
 * run, and one thread is faster than two. So there are as many threads as free cores:
 *
 *      used by others, of 4 cores   0 ... 0.4 ... 1.4 ... 2.4 ...
 *      threads                        4       3       2       1
 *
 * Fewer at once, more after the others were calm for a while.
 *
 * Rules (cited by the tests):
 *   T1  1 <= threads <= most, whatever the input.
 *   T2  The same inputs give the same answers: no clock but the time that is passed in.
 */
#ifndef FB_PLAN_THREAD_GOVERNOR_H
#define FB_PLAN_THREAD_GOVERNOR_H

#include <stdint.h>

struct fb_thread_governor {
    int most;  /* threads when nobody else computes */
    int cores; /* that the process may run on */
    int threads;
    uint64_t calm_ns; /* how long the others must be calm before there are more threads */
    uint64_t calm_since_ns;
    int calm_threads; /* that there were free cores for all that time; 0: not calm */
};

/* Begins with `most` threads. */
void fb_thread_governor_init(struct fb_thread_governor *g, int most, int cores, uint64_t calm_ns);

/* How many threads compute from now on. In the time up to now_ns others used `used` of `n_cpus`
 * processors on average (hyperthreads count one each). */
int fb_thread_governor_decide(
    struct fb_thread_governor *g, uint64_t now_ns, double used, int n_cpus);

#endif
