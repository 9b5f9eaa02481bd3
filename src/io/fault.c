/*
 * fault.c - a method that injects faults into another one. For tests, also from the command line.
 *
 *      fault:INNER[,KEY=NUMBER]...            "fault:threads,eio_at=40"   "fault:auto,short=3"
 *
 * Reads are counted from 1 in the order they are started; a retry is a new read.
 *
 *      eio_at=N      the Nth read fails with EIO, and no other
 *      eio_every=N   every Nth read fails with EIO
 *      eintr=N       every Nth read fails with EINTR (1: all)
 *      eagain=N      every Nth read fails with EAGAIN
 *      einval_at=N   the Nth read fails with EINVAL, as direct reads do where unsupported
 *      short=N       every Nth read returns half its bytes and one more; the rest of its memory is
 *                    overwritten, so that using it without a retry gives wrong results
 *      corrupt_at=N  every byte of the Nth read is inverted, to prove that a check detects it
 *      late_ms=M     results are delivered M milliseconds late
 *      reorder=SEED  results are delivered one by one in a random order (the same for the same
 *                    seed, as far as the inner method is deterministic)
 */
#include "io/choose.h"
#include "io/method.h"

#include "base/error.h"
#include "base/random.h"
#include "base/units.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct held {
    struct fb_io_read *read;
    uint64_t due_ns;
};

struct fault {
    struct fb_io_queue base;
    struct fb_io_queue *inner;
    char name[32];
    uint64_t count;    /* reads started */
    struct held *held; /* finished, not delivered yet; room for `depth` */
    uint32_t n_held;
    uint64_t random;
    /* Set by the keys; 0: off. */
    uint64_t eio_at, eio_every, eintr, eagain, einval_at, short_every, corrupt_at, late_ms, reorder;
};

static const struct {
    const char *key;
    size_t offset;
} keys[] = {
    {"eio_at", offsetof(struct fault, eio_at)},
    {"eio_every", offsetof(struct fault, eio_every)},
    {"eintr", offsetof(struct fault, eintr)},
    {"eagain", offsetof(struct fault, eagain)},
    {"einval_at", offsetof(struct fault, einval_at)},
    {"short", offsetof(struct fault, short_every)},
    {"corrupt_at", offsetof(struct fault, corrupt_at)},
    {"late_ms", offsetof(struct fault, late_ms)},
    {"reorder", offsetof(struct fault, reorder)},
};
#define N_KEYS (sizeof keys / sizeof *keys)

/* Digits only, 1 .. 10^9 - 1. */
static bool parse_count(const char *text, uint64_t *out)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 9 || text[n]) {
        return false;
    }
    *out = strtoull(text, NULL, 10);
    return *out > 0;
}

/* Sets one "key=number"; cuts `word` at the '='. */
static enum forebay_status parse_key(struct fault *f, char *word, struct forebay_error *err)
{
    static const char hint[] = "The keys are eio_at, eio_every, eintr, eagain, einval_at, short, "
                               "corrupt_at, late_ms and reorder, each with =NUMBER.";
    char *value = strchr(word, '=');
    if (value) {
        *value++ = 0;
    }
    for (size_t i = 0; i < N_KEYS; i++) {
        if (strcmp(word, keys[i].key)) {
            continue;
        }
        if (!value || !parse_count(value, (uint64_t *)((char *)f + keys[i].offset))) {
            return fb_fail(err, FOREBAY_E_USAGE, hint,
                "I/O method fault: \"%s\" needs a whole number above 0", word);
        }
        return FOREBAY_OK;
    }
    return fb_fail(err, FOREBAY_E_USAGE, hint, "I/O method fault: unknown key \"%s\"", word);
}

/* "INNER,key=number,..."; leaves INNER in `spec`. */
static enum forebay_status parse_spec(struct fault *f, char *spec, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    char *comma = strchr(spec, ',');
    while (comma && status == FOREBAY_OK) {
        char *word = comma + 1;
        *comma = 0;
        comma = strchr(word, ',');
        if (comma) {
            *comma = 0;
        }
        status = parse_key(f, word, err);
    }
    return status;
}

static void fault_free(struct fb_io_queue *queue)
{
    struct fault *f = (struct fault *)queue;
    if (f->inner) {
        f->inner->method->free(f->inner);
    }
    free(f->held);
    free(f);
}

static enum forebay_status fault_open(const char *spec, const struct fb_io_options *options,
    uint32_t depth, struct fb_io_queue **out, struct forebay_error *err)
{
    (void)depth; /* the inner method has its own default */
    struct fb_io_options inner = *options;
    struct fault *f = fb_xcalloc(1, sizeof *f);
    char *words = fb_xstrdup(spec);
    enum forebay_status status = parse_spec(f, words, err);
    if (status == FOREBAY_OK) {
        inner.method = words;
        status = fb_io_queue_open(&inner, &f->inner, err);
    }
    free(words);
    if (status != FOREBAY_OK) {
        fault_free(&f->base);
        return status;
    }
    snprintf(f->name, sizeof f->name, "fault:%s", f->inner->name);
    f->base = (struct fb_io_queue){&fb_io_method_fault, f->inner->depth, f->name};
    f->held = fb_xcalloc(f->inner->depth, sizeof *f->held);
    f->random = f->reorder;
    *out = &f->base;
    return FOREBAY_OK;
}

static bool every(uint64_t n, uint64_t count)
{
    return n && count % n == 0;
}

static void hold(struct fault *f, struct fb_io_read *read)
{
    FB_ASSERT(f->n_held < f->base.depth);
    uint64_t due = f->late_ms ? fb_now_ns() + f->late_ms * 1000000u : 0;
    f->held[f->n_held++] = (struct held){read, due};
}

static void fault_start(struct fb_io_queue *queue, struct fb_io_read *read)
{
    struct fault *f = (struct fault *)queue;
    uint64_t n = ++f->count;
    int errnum = n == f->eio_at || every(f->eio_every, n) ? EIO
                 : n == f->einval_at                      ? EINVAL
                 : every(f->eintr, n)                     ? EINTR
                 : every(f->eagain, n)                    ? EAGAIN
                                                          : 0;
    if (errnum) {
        memset(read->buffer, 0xee, read->length);
        read->result = -errnum;
        hold(f, read);
        return;
    }
    read->tag = n;
    f->inner->method->start(f->inner, read);
}

static void fault_flush(struct fb_io_queue *queue)
{
    struct fault *f = (struct fault *)queue;
    f->inner->method->flush(f->inner);
}

static void apply_faults(const struct fault *f, struct fb_io_read *read)
{
    unsigned char *bytes = read->buffer;
    if (read->result > 1 && every(f->short_every, read->tag)) {
        int64_t keep = read->result / 2 + 1 - (read->result == 2);
        memset(bytes + keep, 0xee, (size_t)(read->result - keep));
        read->result = keep;
    }
    if (read->tag == f->corrupt_at) {
        for (int64_t i = 0; i < read->result; i++) {
            bytes[i] = (unsigned char)~bytes[i];
        }
    }
}

static void receive_finished(struct fault *f, bool wait)
{
    struct fb_io_read *read = f->inner->method->reap(f->inner, wait);
    while (read) {
        struct fb_io_read *next = read->next;
        apply_faults(f, read);
        hold(f, read);
        read = next;
    }
}

static struct fb_io_read *release(struct fault *f, uint32_t i)
{
    struct fb_io_read *read = f->held[i].read;
    memmove(f->held + i, f->held + i + 1, (--f->n_held - i) * sizeof *f->held);
    return read;
}

/* Reads to deliver now: all that are due; with `reorder` one of them, or none. */
static struct fb_io_read *deliver(struct fault *f, bool wait)
{
    uint64_t now = f->late_ms ? fb_now_ns() : 0;
    uint32_t due = 0; /* held is in the order of due_ns */
    while (due < f->n_held && f->held[due].due_ns <= now) {
        due++;
    }
    struct fb_io_read *list = NULL;
    if (f->reorder && due) {
        uint64_t r = fb_random_next(&f->random);
        if (wait || r >> 63) {
            list = release(f, (uint32_t)(r % due));
            list->next = NULL;
        }
        return list;
    }
    while (due > 0) {
        struct fb_io_read *read = release(f, --due);
        read->next = list;
        list = read;
    }
    return list;
}

static struct fb_io_read *fault_reap(struct fb_io_queue *queue, bool wait)
{
    struct fault *f = (struct fault *)queue;
    for (;;) {
        receive_finished(f, wait && f->n_held == 0);
        struct fb_io_read *list = deliver(f, wait);
        if (list || !wait) {
            return list;
        }
        uint64_t now = fb_now_ns();
        if (f->n_held && f->held[0].due_ns > now) {
            uint64_t ns = f->held[0].due_ns - now;
            nanosleep(
                &(struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}, NULL);
        }
    }
}

const struct fb_io_method fb_io_method_fault = {
    .name = "fault",
    .default_depth = 0,
    .open = fault_open,
    .free = fault_free,
    .start = fault_start,
    .flush = fault_flush,
    .reap = fault_reap,
};
