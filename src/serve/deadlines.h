/*
 * deadlines.h - clients have so long to say what they want, however busily they say it.
 *
 * libmicrohttpd's timeout is for silence: one byte now and then keeps a connection, and its thread,
 * for ever. So each connection has a deadline while its client owes a request, or the rest of one:
 *
 *      connected --watch--> owes a request --rest--> is answered --watch--> owes the next ...
 *                               '-- too late: its socket is shut down, and libmicrohttpd ends it
 *
 * A connection is in the list only while its socket is open: libmicrohttpd closes it after it has
 * said that the connection ends. Thread-safe.
 */
#ifndef FB_SERVE_DEADLINES_H
#define FB_SERVE_DEADLINES_H

#include <stdint.h>

struct fb_deadlines;

struct fb_deadline { /* of a connection; zero but for `fd` before it is first watched */
    int fd;
    uint64_t at_ns; /* 0: nothing is owed */
    struct fb_deadline *before, *after;
};

/* Starts a thread; NULL when there can be none. Each deadline is `seconds` away. */
struct fb_deadlines *fb_deadlines_new(int seconds);
/* No deadline may be watched any more. NULL is fine. */
void fb_deadlines_free(struct fb_deadlines *deadlines);

/* The client's time begins, anew. */
void fb_deadline_watch(struct fb_deadlines *deadlines, struct fb_deadline *deadline);
/* It does not run. */
void fb_deadline_rest(struct fb_deadlines *deadlines, struct fb_deadline *deadline);

#endif
