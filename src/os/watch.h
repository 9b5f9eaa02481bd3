/*
 * watch.h - a thread that reads the memory state every few milliseconds, and takes turns with a
 * worker.
 *
 * The memory that is left changes while the worker uses what it has. The watch's thread looks on
 * every turn, and acts only while the worker is outside:
 *
 *      worker   enter ------- leave   (computes, touches nothing shared)   enter ----- leave
 *      watch     look    look     look+act   look+act   look+act            look
 *
 * `look` is called on every turn. `act` follows only if the worker is not between enter and leave,
 * and enter waits until act has returned. So act may change data that the worker uses between enter
 * and leave.
 */
#ifndef FB_OS_WATCH_H
#define FB_OS_WATCH_H

#include "os/memory.h"

struct fb_watch;

struct fb_watch_calls {
    void (*look)(void *user, const struct fb_memory_state *state, uint64_t now_ns);
    void (*act)(void *user);
};

/* Starts the thread. NULL when that fails. */
struct fb_watch *fb_watch_start(const struct fb_watch_calls *calls, void *user);
/* Stops the thread; no call is made after this returns. NULL is fine, here and below. */
void fb_watch_stop(struct fb_watch *watch);

void fb_watch_enter(struct fb_watch *watch);
void fb_watch_leave(struct fb_watch *watch);

/* Time between two looks. Tests shorten it before they start a watch. */
extern uint32_t fb_watch_interval_us;

#endif
