/*
 * uring.c - Linux io_uring: reads are queued in a ring shared with the kernel.
 *
 * The ring has room for `depth` reads, so neither side can overflow. No SQPOLL: a kernel thread
 * that spins would take a core from the computation. The default task-work mode, not COOP_TASKRUN
 * or DEFER_TASKRUN: an engine may move between threads, and a poll must see a completion although
 * the thread that submitted the read is deep in a matrix product.
 *
 * The arena is registered if possible: its pages are then pinned once and not for every read. If
 * RLIMIT_MEMLOCK forbids it, we lose a little CPU time; not worth a warning. Submitting 2 MiB takes
 * 80 us of CPU time into unregistered 4 KiB pages, 16 us into registered ones, and 16 us into
 * unregistered huge pages, so an arena on huge pages gains nothing.
 *
 * Every flush is an io_uring_enter. 30 submits in a row of 256 KiB each take 210-250 us with one
 * flush each and 200 us with one flush for all: not worth delaying a read.
 */
#ifdef FB_HAVE_LIBURING
#include "io/method.h"

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUFFER_BYTES FB_GIB /* the kernel's limit for one registered buffer */

struct uring {
    struct fb_io_queue base;
    struct io_uring ring;
    uintptr_t arena, arena_end; /* registered; equal when nothing is */
};

static const char *refusal(int errnum)
{
    switch (errnum) {
    case ENOSYS:
        return "this kernel has no io_uring";
    case EPERM:
    case EACCES:
        return "io_uring is disabled here (kernel.io_uring_disabled, or the container's seccomp "
               "profile)";
    case ENOMEM:
        return "no memory for io_uring (raise the locked-memory limit, ulimit -l)";
    default:
        return strerror(errnum);
    }
}

/* Sends a no-op through the ring: some sandboxes allow the set-up but not the use. */
static int try_ring(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool reads = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
    io_uring_free_probe(probe);
    if (!reads) {
        return ENOSYS; /* older than Linux 5.6 */
    }
    io_uring_prep_nop(io_uring_get_sqe(ring));
    int rc = io_uring_submit_and_wait(ring, 1);
    if (rc < 0) {
        return -rc;
    }
    rc = io_uring_wait_cqe(ring, &cqe);
    if (rc < 0) {
        return -rc;
    }
    io_uring_cqe_seen(ring, cqe);
    return 0;
}

static void register_arena(struct uring *u, void *arena, uint64_t bytes)
{
    size_t n = (size_t)((bytes + BUFFER_BYTES - 1) / BUFFER_BYTES);
    if (!arena || n == 0) {
        return;
    }
    struct iovec *part = fb_xcalloc(n, sizeof *part);
    for (size_t i = 0; i < n; i++) {
        part[i].iov_base = (char *)arena + i * BUFFER_BYTES;
        part[i].iov_len = (size_t)fb_min(BUFFER_BYTES, bytes - i * BUFFER_BYTES);
    }
    int rc = io_uring_register_buffers(&u->ring, part, (unsigned)n);
    free(part);
    if (rc == 0) {
        u->arena = (uintptr_t)arena;
        u->arena_end = u->arena + bytes;
    } else {
        fb_debug("io_uring does not register %s of buffers: %s", FB_SIZE(bytes), strerror(-rc));
    }
}

static enum forebay_status uring_open(const char *spec, const struct fb_io_options *options,
    uint32_t depth, struct fb_io_queue **out, struct forebay_error *err)
{
    (void)spec;
    struct uring *u = fb_xcalloc(1, sizeof *u);
    u->base = (struct fb_io_queue){&fb_io_method_uring, depth, fb_io_method_uring.name};
    int rc = io_uring_queue_init(depth, &u->ring, 0);
    int errnum = -rc;
    if (!errnum) {
        errnum = try_ring(&u->ring);
        if (errnum) {
            io_uring_queue_exit(&u->ring);
        }
    }
    if (errnum) {
        free(u);
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "", "cannot use io_uring: %s", refusal(errnum));
    }
    register_arena(u, options->arena, options->arena_bytes);
    *out = &u->base;
    return FOREBAY_OK;
}

static void uring_free(struct fb_io_queue *queue)
{
    struct uring *u = (struct uring *)queue;
    io_uring_queue_exit(&u->ring);
    free(u);
}

/* Index of the registered buffer that holds the whole range, or -1. */
static int registered(const struct uring *u, const struct fb_io_read *read)
{
    uintptr_t at = (uintptr_t)read->buffer;
    if (at < u->arena || at + read->length > u->arena_end) {
        return -1;
    }
    uint64_t first = (at - u->arena) / BUFFER_BYTES;
    uint64_t last = (at + read->length - 1 - u->arena) / BUFFER_BYTES;
    return first == last ? (int)first : -1;
}

static void uring_start(struct fb_io_queue *queue, struct fb_io_read *read)
{
    struct uring *u = (struct uring *)queue;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    FB_ASSERT(sqe); /* the ring has `depth` entries */
    int index = registered(u, read);
    if (index >= 0) {
        io_uring_prep_read_fixed(sqe, read->fd, read->buffer, read->length, read->offset, index);
    } else {
        io_uring_prep_read(sqe, read->fd, read->buffer, read->length, read->offset);
    }
    if (!read->direct) {
        /* Cached pages would be copied inside io_uring_enter: 340 us for 2 MiB, against 5 us when a
         * kernel worker copies them. */
        io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
    }
    io_uring_sqe_set_data(sqe, read);
}

/* The kernel may be short of memory or entries for a moment; any other error is our bug. */
static void pause_after(int errnum)
{
    if (errnum == EINTR) {
        return;
    }
    if (errnum != EAGAIN && errnum != EBUSY && errnum != ENOMEM) {
        FB_BUG("io_uring_enter: %s", strerror(errnum));
    }
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void uring_flush(struct fb_io_queue *queue)
{
    struct uring *u = (struct uring *)queue;
    while (io_uring_sq_ready(&u->ring)) {
        int rc = io_uring_submit(&u->ring);
        if (rc < 0) {
            pause_after(-rc);
        }
    }
}

static struct fb_io_read *uring_reap(struct fb_io_queue *queue, bool wait)
{
    struct uring *u = (struct uring *)queue;
    struct io_uring_cqe *cqe[64];
    struct fb_io_read *list = NULL;
    unsigned n;
    while (!(n = io_uring_peek_batch_cqe(&u->ring, cqe, 64)) && wait) {
        int rc = io_uring_wait_cqe(&u->ring, &cqe[0]);
        if (rc < 0) {
            pause_after(-rc);
        }
    }
    for (unsigned i = n; i > 0; i--) {
        struct fb_io_read *read = io_uring_cqe_get_data(cqe[i - 1]);
        read->result = cqe[i - 1]->res;
        read->next = list;
        list = read;
    }
    io_uring_cq_advance(&u->ring, n);
    return list;
}

const struct fb_io_method fb_io_method_uring = {
    .name = "uring",
    .default_depth = 64,
    .open = uring_open,
    .free = uring_free,
    .start = uring_start,
    .flush = uring_flush,
    .reap = uring_reap,
};
#else
typedef int fb_io_uring_not_built; /* ISO C forbids an empty file */
#endif
