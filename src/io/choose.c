/* choose.c - the list of read methods, and the order in which they are tried. */
#include "io/choose.h"

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/method.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 4096u

/* Best first: this is the order in which "auto" and every fallback try. */
static const struct fb_io_method *const methods[] = {
#ifdef FB_HAVE_LIBURING
    &fb_io_method_uring,
#endif
    &fb_io_method_threads,
    &fb_io_method_sync,
};
#define N_METHODS (sizeof methods / sizeof *methods)

static enum forebay_status open_method(const struct fb_io_method *method, const char *spec,
    const struct fb_io_options *options, struct fb_io_queue **out, struct forebay_error *err)
{
    uint32_t depth = options->queue_depth ? options->queue_depth : method->default_depth;
    return method->open(spec, options, depth, out, err);
}

/* Opens methods[first] or, when the system refuses it, the next that works, with one warning per
 * process that gives the reason. `reason`: why a better method was not tried, or NULL. */
static enum forebay_status open_best(size_t first, const char *reason,
    const struct fb_io_options *options, struct fb_io_queue **out, struct forebay_error *err)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    struct forebay_error why = {0};
    enum forebay_status status = FOREBAY_E_UNSUPPORTED;
    for (size_t i = first; i < N_METHODS; i++) {
        struct forebay_error mine;
        status = open_method(methods[i], NULL, options, out, &mine);
        if (status == FOREBAY_OK) {
            reason = why.status != FOREBAY_OK ? why.message : reason;
            if (reason && !atomic_flag_test_and_set(&said)) {
                fb_warn("%s; reading with the method \"%s\" instead", reason, methods[i]->name);
            }
            return FOREBAY_OK;
        }
        if (why.status == FOREBAY_OK) {
            why = mine;
        }
    }
    return fb_fail(err, status, why.hint, "%s", why.message);
}

static enum forebay_status check_options(
    const struct fb_io_options *options, struct forebay_error *err)
{
    if (options->chunk_bytes % FB_BLOCK_BYTES || options->chunk_bytes > 1u << 30) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a multiple of 4096, at most 1 GiB.",
            "cannot read in chunks of %u bytes", options->chunk_bytes);
    }
    if (options->queue_depth > MAX_DEPTH) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give at most 4096; 64 is plenty for any disk.",
            "cannot keep %u reads in flight", options->queue_depth);
    }
    return FOREBAY_OK;
}

enum forebay_status fb_io_check_method(const char *name, struct forebay_error *err)
{
    bool known = !strcmp(name, "auto") || !strcmp(name, "uring") || !strncmp(name, "fault:", 6);
    for (size_t i = 0; i < N_METHODS; i++) {
        known = known || !strcmp(name, methods[i]->name);
    }
    return known ? FOREBAY_OK
                 : fb_fail(err, FOREBAY_E_USAGE, "The methods are auto, uring, threads and sync.",
                       "unknown I/O method \"%s\"", name);
}

enum forebay_status fb_io_queue_open(
    const struct fb_io_options *options, struct fb_io_queue **out, struct forebay_error *err)
{
    const char *name = options->method ? options->method : "auto";
    bool sim = !strcmp(name, "sim") && options->virtual_disk; /* not for users: no list names it */
    if (check_options(options, err) != FOREBAY_OK ||
        (!sim && fb_io_check_method(name, err) != FOREBAY_OK)) {
        return FOREBAY_E_USAGE;
    }
    if (sim) {
        return open_method(&fb_io_method_sim, NULL, options, out, err);
    }
    if (!strcmp(name, "auto")) {
        return open_best(0, NULL, options, out, err);
    }
    if (!strncmp(name, "fault:", 6)) {
        return open_method(&fb_io_method_fault, name + 6, options, out, err);
    }
    for (size_t i = 0; i < N_METHODS; i++) {
        if (!strcmp(name, methods[i]->name)) {
            return open_best(i, NULL, options, out, err);
        }
    }
    return open_best(0, "this program was built without io_uring", options, out, err);
}
