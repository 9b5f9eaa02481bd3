/* optimize.c - forebay optimize: writes a model's weights as this CPU computes with them, once. */
#include <stdio.h>
#include <unistd.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

struct eta {
    bool quiet, terminal;
    uint64_t start_ns, start_bytes; /* of this run */
    uint64_t said_ns;
};

/* One line, again and again on a terminal, every ten seconds elsewhere. */
static bool report(const char *what, uint64_t done, uint64_t total, void *user)
{
    struct eta *e = user;
    uint64_t now = fb_now_ns();
    if (e->start_ns == 0) {
        e->start_ns = now;
        e->start_bytes = done;
    }
    double seconds = (double)(now - e->start_ns) * 1e-9;
    double rate = seconds > 0 ? (double)(done - e->start_bytes) / seconds : 0;
    uint64_t pause = e->terminal ? 200000000u : 10000000000u;
    if (e->quiet || (e->said_ns && now - e->said_ns < pause)) {
        return true;
    }
    e->said_ns = now;
    fprintf(stderr, "%s%s: %.0f %% of %s", e->terminal ? "\r\033[K" : "", what,
        total ? 100.0 * (double)done / (double)total : 100.0, FB_SIZE(total));
    if (rate > 0 && seconds > 1) {
        fprintf(
            stderr, ", %s/s, %.0f s left", FB_SIZE((uint64_t)rate), (double)(total - done) / rate);
    }
    fprintf(stderr, "%s", e->terminal ? "" : "\n");
    return true;
}

static int remove_sidecars(const char *model, const char *output)
{
    struct forebay_error err;
    int n;
    if (forebay_optimize_remove(model, output, &n, &err) != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    printf("%d %s removed\n", n, n == 1 ? "file" : "files");
    return CMD_OK;
}

int cmd_optimize(int argc, char **argv)
{
    struct forebay_optimize_options o;
    bool remove = false;
    struct eta eta = {.terminal = isatty(STDERR_FILENO) != 0};
    forebay_optimize_options_init(&o);
    struct cmd_option options[] = {
        {CMD_STRING, 'o', "output", "FILE",
            "write here; default: MODEL.forebay, or the cache directory if that cannot be written. "
            "Give it to run with --sidecar",
            .target = &o.output},
        {CMD_NO_FLAG, 0, "no-repack", NULL,
            "for runs with --no-repack: experts as stored, each in one piece", .target = &o.repack},
        {CMD_INT, 't', "threads", "N", "default: the physical cores", .target = &o.threads,
            .min = 1, .max = 512},
        {CMD_STRING, 0, "io", "METHOD", "how to read: auto, uring, threads, sync",
            .target = &o.io_method},
        {CMD_FLAG, 0, "remove", NULL, "remove the model's sidecar instead", .target = &remove},
        {CMD_FLAG, 'q', "quiet", NULL, "no progress on stderr", .target = &eta.quiet}, {0}};
    const struct cmd_spec spec = {"optimize", "MODEL [options]",
        "Writes a sidecar: the model's weights once more, in the layout that this CPU computes "
        "with, "
        "each expert in one piece. Runs that stream the model then read them from there and repack "
        "nothing; the results are the same. It takes as much disk as the model, goes on where it "
        "was "
        "interrupted, and may be deleted at any time. Exit code 3: the disk has too little room.",
        options, 1, 1, NULL};
    const char *model;
    int rc = cmd_parse(&spec, argc, argv, &model, NULL);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (remove) {
        return remove_sidecars(model, o.output);
    }
    struct forebay_optimized done;
    struct forebay_error err = {0};
    o.progress = report;
    o.progress_user = &eta;
    enum forebay_status status = forebay_optimize(model, &o, &done, &err);
    if (eta.terminal && eta.said_ns) {
        fprintf(stderr, "\r\033[K");
    }
    if (status != FOREBAY_OK) {
        return cmd_fail(&err);
    }
    if (done.was_there) {
        printf("%s is up to date\n", done.path);
        return CMD_OK;
    }
    printf("%s: %s", done.path, FB_SIZE(done.bytes));
    if (done.resumed_from > 0) {
        printf(", of which an earlier run had written %s", FB_SIZE(done.resumed_from));
    }
    printf("\n");
    return CMD_OK;
}
