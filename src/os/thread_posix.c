/* thread_posix.c - see thread.h. */
#include "os/thread.h"

#include <signal.h>

#define STACK_BYTES (256u * 1024)

/* Creates a thread that takes none of the program's signals. */
static int create(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *arg), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(out, attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int fb_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int rc = create(out, &attr, run, arg);
    pthread_attr_destroy(&attr);
    return rc;
}

int fb_thread_call(void *stack, size_t stack_bytes, void *(*run)(void *arg), void *arg)
{
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    int rc = stack ? pthread_attr_setstack(&attr, stack, stack_bytes)
                   : pthread_attr_setstacksize(&attr, stack_bytes);
    rc = rc ? rc : create(&thread, &attr, run, arg);
    pthread_attr_destroy(&attr);
    if (rc == 0) {
        pthread_join(thread, NULL);
    }
    return rc;
}
