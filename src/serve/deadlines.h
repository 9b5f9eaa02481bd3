/*
 * deadlines.h - one deadline for each request to be received; trickling bytes do not extend it.
 *
 * libmicrohttpd's timeout is for silence: a byte now and then would keep a connection, and its
 * thread, for ever. So the deadline of a connection runs while a request, or the rest of one, has
 * not been received:
 *
 *      connected --start--> receiving --stop--> answering --start--> receiving the next ...
 *                               '- too late: the socket is shut down, and libmicrohttpd closes the
 *                                  connection
 *
 * A deadline may run only while its socket is open. libmicrohttpd closes the socket after it has
 * notified us, so stopping in that notification is early enough. Thread-safe.
 */
#ifndef FB_SERVE_DEADLINES_H
#define FB_SERVE_DEADLINES_H

#include <stdint.h>

struct fb_deadlines;

/* A connection's deadline. The caller zeroes it and sets `fd`; all else belongs to deadlines.c. */
struct fb_deadline {
    int fd;
    uint64_t at_ns; /* 0: it does not run */
    struct fb_deadline *before, *after;
};

/* Starts a thread; NULL if that fails. Deadlines are `seconds` after their start. */
struct fb_deadlines *fb_deadlines_new(int seconds);
/* No deadline may run. NULL is ignored. */
void fb_deadlines_free(struct fb_deadlines *deadlines);

/* Starts a deadline, or starts it anew. It must stay valid until it is stopped. */
void fb_deadline_start(struct fb_deadlines *deadlines, struct fb_deadline *deadline);
/* Stops a deadline; nothing happens if it does not run. */
void fb_deadline_stop(struct fb_deadlines *deadlines, struct fb_deadline *deadline);

#endif
