#include "engine/machine.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/compute.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "ggml.h"
#include "hw/disk.h"
#include "llama.h"
#include "os/cpu.h"
#include "os/dirs.h"
#include "os/memory.h"

#define TYPE_SECONDS   0.08
#define EXPERT_SECONDS 0.06
#define MEMORY_SECONDS 0.1

static int64_t now(void)
{
    return (int64_t)time(NULL);
}

/* What a profile must be of to be believed. */
static void describe(char *text, size_t cap)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    snprintf(text, cap, "%s; %d cores; %llu GiB; llama.cpp %s", fb_cpu_name(), fb_cpu_count(),
        (unsigned long long)(state.total_bytes / FB_GIB), llama_version());
}

static bool profile_path(char *path, size_t cap)
{
    return fb_cache_path("profile.json", path, cap);
}

/* --- Computing ----------------------------------------------------------------------------- */

static bool known(const struct fb_machine_request *rq, const struct fb_profile *p,
    const struct fb_machine_kind *kind, bool repack, int threads)
{
    return !rq->again && fb_profile_expert_rate(p, ggml_type_name((enum ggml_type)kind->type),
                             repack, threads, kind->columns, kind->rows, kind->used);
}

/* Measures a kind in one layout. A type that the CPU does not repack, and experts for which there is
 * too little room, are noted as such, so that they are not asked again. */
static void measure_kind(struct fb_profile *p, struct fb_bench *bench,
    const struct fb_machine_kind *kind, bool repack, int threads)
{
    const char *name = ggml_type_name((enum ggml_type)kind->type);
    const struct fb_profile_rate *any = fb_profile_rate(p, name, repack, threads);
    struct fb_bench_rate r;
    bool measured = kind->columns ? fb_bench_expert(bench, kind->type, repack, kind->columns,
                                        kind->rows, kind->used, EXPERT_SECONDS, &r)
                                  : fb_bench_type(bench, kind->type, repack, TYPE_SECONDS, &r);
    if (!measured && kind->columns && any) {
        r = (struct fb_bench_rate){.decode = any->decode, .experts = any->experts};
    } else if (!measured) {
        return;
    }
    struct fb_profile_rate rate = {.columns = kind->columns,
        .rows = kind->rows,
        .used = kind->used,
        .repacked = repack,
        .threads = threads,
        .decode = r.decode,
        .batch = r.batch,
        .experts = r.experts,
        .unpack = r.arrive};
    snprintf(rate.type, sizeof rate.type, "%s", name);
    fb_profile_put_rate(p, &rate);
}

static bool missing(const struct fb_machine_request *rq, const struct fb_profile *p, int threads)
{
    bool any =
        rq->again || p->op_s == 0 || !fb_profile_rate(p, FB_PROFILE_ATTENTION, false, threads);
    for (int i = 0; i < rq->n_kinds; i++) {
        any = any || !known(rq, p, &rq->kinds[i], false, threads) ||
              (rq->repack && !known(rq, p, &rq->kinds[i], true, threads));
    }
    return any;
}

/* Everything that is missing, on so many threads. False when `progress` said to stop. */
static bool measure_compute(
    const struct fb_machine_request *rq, struct fb_profile *p, int threads, int step, int steps)
{
    struct fb_bench *bench = fb_bench_new(threads, rq->room_bytes);
    bool go_on = true;
    if (!bench) {
        return true;
    }
    p->cores = fb_cpu_count();
    p->memory_bytes_per_s[threads > 1] = fb_bench_memory(bench, MEMORY_SECONDS);
    if (threads > 1 || p->op_s == 0) {
        p->op_s = fb_bench_op(bench);
    }
    if (rq->again || !fb_profile_rate(p, FB_PROFILE_ATTENTION, false, threads)) {
        struct fb_profile_rate rate = {.type = FB_PROFILE_ATTENTION,
            .threads = threads,
            .decode = fb_bench_attention(bench, 1),
            .batch = fb_bench_attention(bench, 64)};
        if (rate.decode > 0 && rate.batch > 0) {
            fb_profile_put_rate(p, &rate);
        }
    }
    for (int i = 0; i < rq->n_kinds && go_on; i++) {
        for (int repack = 0; repack <= (rq->repack ? 1 : 0); repack++) {
            if (!known(rq, p, &rq->kinds[i], repack, threads)) {
                measure_kind(p, bench, &rq->kinds[i], repack, threads);
            }
        }
        go_on = !rq->progress ||
                rq->progress("measuring the processor", (uint64_t)(step * rq->n_kinds + i + 1),
                    (uint64_t)(steps * rq->n_kinds), rq->progress_user);
    }
    fb_bench_free(bench);
    return go_on;
}

int fb_machine_threads(void)
{
    int cores = fb_cpu_count();
    return cores < GGML_MAX_N_THREADS ? cores : GGML_MAX_N_THREADS;
}

enum forebay_status fb_machine_profile(
    const struct fb_machine_request *rq, struct fb_profile *out, struct forebay_error *err)
{
    char path[1024], machine[FB_PROFILE_MACHINE];
    const char *why = "";
    bool place = profile_path(path, sizeof path);
    describe(machine, sizeof machine);
    fb_profile_load(place ? path : "", machine, now(), out, &why);
    if (why && place && strcmp(why, "there is none yet") != 0) {
        fb_warn("the profile %s is measured anew: %s", path, why);
    }
    int threads[2] = {rq->threads ? rq->threads : 1, fb_machine_threads()};
    int n = rq->threads == 0 && threads[1] > 1 ? 2 : 1;
    bool changed = false;
    for (int i = 0; i < n && (place || rq->again); i++) {
        if (missing(rq, out, threads[i])) {
            changed = true;
            if (!measure_compute(rq, out, threads[i], i, n)) {
                return fb_fail(err, FOREBAY_E_CANCELLED, "", "measuring was cancelled");
            }
        }
    }
    if (changed && place && !fb_profile_save(path, out)) {
        fb_debug("cannot write %s", path);
    }
    return FOREBAY_OK;
}

/* --- The disk ------------------------------------------------------------------------------ */

bool fb_machine_known_disk(const struct fb_profile *p, const struct fb_file *file)
{
    return fb_profile_disk(p, file->identity[0], now()) != NULL;
}

void fb_machine_disk(struct fb_profile *p, struct fb_file *const *files, int n_files,
    const char *io_method, double seconds)
{
    struct fb_io_options io;
    struct fb_profile_disk disk = {.device = files[0]->identity[0], .measured = now()};
    fb_io_options_init(&io);
    io.method = io_method;
    double share =
        seconds / (4 * 3 + 6) / 2; /* measuring takes two to five times as long as asked */
    for (int b = 0; b < 4; b++) {
        for (int d = 0; d < 3; d++) {
            disk.grid[b][d] = fb_disk_measure(
                files, n_files, &io, fb_profile_blocks[b], fb_profile_depths[d], share)
                                  .sustained;
        }
    }
    /* The engine's own pattern, in passes apart: disks are not the same from one second to the
     * next. The middle one counts. */
    double passes[3];
    for (int i = 0; i < 3; i++) {
        passes[i] =
            fb_disk_measure(files, n_files, &io, FB_DISK_READ_BYTES, FB_DISK_DEPTH, share * 1.5)
                .sustained;
    }
    double least = passes[0], most = passes[0], sum = 0;
    for (int i = 0; i < 3; i++) {
        least = passes[i] < least ? passes[i] : least;
        most = passes[i] > most ? passes[i] : most;
        sum += passes[i];
    }
    disk.bytes_per_s = sum - least - most;
    double single = fb_disk_measure(files, n_files, &io, FB_BLOCK_BYTES, 1, share).sustained;
    disk.latency_s = single > 0 ? FB_BLOCK_BYTES / single : 0;
    if (disk.bytes_per_s <= 0) {
        return;
    }
    fb_profile_put_disk(p, &disk);
    char path[1024];
    if (profile_path(path, sizeof path)) {
        fb_profile_save(path, p);
    }
}
