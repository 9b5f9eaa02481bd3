/* optimize.c - forebay optimize: writes a model's weights in the layout of this CPU (a sidecar). */
#include <stdio.h>
#include <unistd.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

struct eta {
    bool quiet, terminal;
    uint64_t start_ns, start_bytes; /* start_bytes: written by an earlier run */
    uint64_t printed_ns;
};

/* A forebay_progress. One line: redrawn on a terminal, printed every ten seconds elsewhere. */
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
    if (e->quiet || (e->printed_ns && now - e->printed_ns < pause)) {
        return true;
    }
    e->printed_ns = now;
    fprintf(stderr, "%s%s: %.0f %% of %s", e->terminal ? "\r\033[K" : "", what,
        total ? 100.0 * (double)done / (double)total : 100.0, FB_SIZE(total));
    if (rate > 0 && seconds > 1) {
        fprintf(stderr, ", %s, %.0f s left", FB_RATE(rate), (double)(total - done) / rate);
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
            "sidecar to write; default: MODEL.forebay, or in the cache directory if that cannot be "
            "written. Other commands use another file with --sidecar FILE",
            .target = &o.output},
        {CMD_NO_FLAG, 0, "no-repack", NULL, "write weights as stored, for runs with --no-repack",
            .target = &o.repack},
        {CMD_INT, 't', "threads", "N", "number of threads; default: one per physical core",
            .target = &o.threads, .min = 1, .max = 512},
        {CMD_STRING, 0, "io", "METHOD", "method of reading: auto, uring, threads, sync",
            .target = &o.io_method},
        {CMD_FLAG, 0, "remove", NULL, "remove the model's sidecar instead of writing it",
            .target = &remove},
        {CMD_FLAG, 'q', "quiet", NULL, "print no progress", .target = &eta.quiet}, {0}};
    const struct cmd_spec spec = {"optimize", "MODEL [options]",
        "Writes a sidecar: a copy of the model's weights in the layout of this CPU, with each "
        "expert in one piece. Commands that stream the model then read the sidecar and repack "
        "nothing; results are identical. A sidecar is about as large as the model. If the command "
        "is "
        "interrupted, run it again to continue. The file may be deleted at any time. Exit code 3: "
        "not enough space on disk.",
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
    if (eta.terminal && eta.printed_ns) {
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
        printf(", of which %s were written by an earlier run", FB_SIZE(done.resumed_from));
    }
    printf("\n");
    return CMD_OK;
}
