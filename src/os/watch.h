/*
 * watch.h - a thread that looks at the memory every few milliseconds, and takes turns with another.
 *
 * What a machine has left changes while others work with what was taken. The watch's thread only
 * looks, decides, and acts when it may:
 *
 *      worker   enter ------- leave   (computes, touches nothing shared)   enter ----- leave
 *      watch     look    look     look+act   look+act   look+act            look
 *
 * `look` is called on every turn. `act` follows it only when nobody is between enter and leave, and
 * enter waits until it has returned. So act may change what the worker uses between its two.
 */
#ifndef FB_OS_WATCH_H
#define FB_OS_WATCH_H

#include "os/memory.h"

struct fb_watch;

struct fb_watch_calls {
    void (*look)(void *user, const struct fb_memory_state *state, uint64_t now_ns);
    void (*act)(void *user);
};

/* Starts looking. NULL when there can be no thread. */
struct fb_watch *fb_watch_start(const struct fb_watch_calls *calls, void *user);
/* Stops; no call is made any more. NULL is fine, here and below. */
void fb_watch_stop(struct fb_watch *watch);

void fb_watch_enter(struct fb_watch *watch);
void fb_watch_leave(struct fb_watch *watch);

/* Time between two looks. Tests shorten it, before they start a watch. */
extern uint32_t fb_watch_interval_us;

#endif
