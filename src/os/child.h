/*
 * child.h - runs a function in a child process, for calls into foreign code that may abort.
 *
 * The child is a fork of this process with one thread. It shares one block of memory with us, runs
 * the function and ends without cleaning up. It writes no core file and nothing to stderr.
 */
#ifndef FB_OS_CHILD_H
#define FB_OS_CHILD_H

#include <stddef.h>

enum fb_child_end {
    FB_CHILD_RETURNED, /* `run` returned */
    FB_CHILD_DIED,     /* the process ended before that */
    FB_CHILD_NONE      /* there can be no child now: `run` was not called */
};

/* Calls run(shared, user) in a child and waits for its end. `shared` is `size` bytes that begin as
 * zero in the child; they are copied to `out` unless there was no child. *signal is the signal that
 * the child died of, 0 when unknown. */
enum fb_child_end fb_child_run(
    void (*run)(void *shared, void *user), void *user, void *out, size_t size, int *signal);

#endif
