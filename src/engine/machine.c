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
    struct st_memory_state state;
    st_memory_state(&state);
    snprintf(text, cap, "%s; %d cores; %llu GiB; llama.cpp %s", st_cpu_name(), st_cpu_count(),
        (unsigned long long)(state.total_bytes / ST_GIB), llama_version());
}

static bool profile_path(char *path, size_t cap)
{
    return st_cache_path("profile.json", path, cap);
}

/* --- Computing ----------------------------------------------------------------------------- */

static bool known(const struct st_machine_request *rq, const struct st_profile *p,
    const struct st_machine_kind *kind, bool repack, int threads)
{
    return !rq->again && st_profile_expert_rate(p, ggml_type_name((enum ggml_type)kind->type),
                             repack, threads, kind->columns, kind->rows, kind->used);
}

/* Measures a kind in one layout. A type that the CPU does not repack, and experts for which there is
 * too little room, are noted as such, so that they are not asked again. */
static void measure_kind(struct st_profile *p, struct st_bench *bench,
    const struct st_machine_kind *kind, bool repack, int threads)
{
    const char *name = ggml_type_name((enum ggml_type)kind->type);
    const struct st_profile_rate *any = st_profile_rate(p, name, repack, threads);
    struct st_bench_rate r;
    bool measured = kind->columns ? st_bench_expert(bench, kind->type, repack, kind->columns,
                                        kind->rows, kind->used, EXPERT_SECONDS, &r)
                                  : st_bench_type(bench, kind->type, repack, TYPE_SECONDS, &r);
    if (!measured && kind->columns && any) {
        r = (struct st_bench_rate){.decode = any->decode, .experts = any->experts};
    } else if (!measured) {
        return;
    }
    struct st_profile_rate rate = {.columns = kind->columns,
        .rows = kind->rows,
        .used = kind->used,
        .repacked = repack,
        .threads = threads,
        .decode = r.decode,
        .batch = r.batch,
        .experts = r.experts,
        .arrive = r.arrive};
    snprintf(rate.type, sizeof rate.type, "%s", name);
    st_profile_put_rate(p, &rate);
}

static bool missing(const struct st_machine_request *rq, const struct st_profile *p, int threads)
{
    bool any =
        rq->again || p->op_s == 0 || !st_profile_rate(p, ST_PROFILE_ATTENTION, false, threads);
    for (int i = 0; i < rq->n_kinds; i++) {
        any = any || !known(rq, p, &rq->kinds[i], false, threads) ||
              (rq->repack && !known(rq, p, &rq->kinds[i], true, threads));
    }
    return any;
}

/* Everything that is missing, on so many threads. False when `progress` said to stop. */
static bool measure_compute(
    const struct st_machine_request *rq, struct st_profile *p, int threads, int step, int steps)
{
    struct st_bench *bench = st_bench_new(threads, rq->room_bytes);
    bool go_on = true;
    if (!bench) {
        return true;
    }
    p->cores = st_cpu_count();
    p->memory_bytes_per_s[threads > 1] = st_bench_memory(bench, MEMORY_SECONDS);
    if (threads > 1 || p->op_s == 0) {
        p->op_s = st_bench_op(bench);
    }
    if (rq->again || !st_profile_rate(p, ST_PROFILE_ATTENTION, false, threads)) {
        struct st_profile_rate rate = {.type = ST_PROFILE_ATTENTION,
            .threads = threads,
            .decode = st_bench_attention(bench, 1),
            .batch = st_bench_attention(bench, 64)};
        if (rate.decode > 0 && rate.batch > 0) {
            st_profile_put_rate(p, &rate);
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
    st_bench_free(bench);
    return go_on;
}

int st_machine_threads(void)
{
    int cores = st_cpu_count();
    return cores < GGML_MAX_N_THREADS ? cores : GGML_MAX_N_THREADS;
}

enum strata_status st_machine_profile(
    const struct st_machine_request *rq, struct st_profile *out, struct strata_error *err)
{
    char path[1024], machine[ST_PROFILE_MACHINE];
    const char *why = "";
    bool place = profile_path(path, sizeof path);
    describe(machine, sizeof machine);
    st_profile_load(place ? path : "", machine, now(), out, &why);
    if (why && place && strcmp(why, "there is none yet") != 0) {
        st_warn("the profile %s is measured anew: %s", path, why);
    }
    int threads[2] = {rq->threads ? rq->threads : 1, st_machine_threads()};
    int n = rq->threads == 0 && threads[1] > 1 ? 2 : 1;
    bool changed = false;
    for (int i = 0; i < n && (place || rq->again); i++) {
        if (missing(rq, out, threads[i])) {
            changed = true;
            if (!measure_compute(rq, out, threads[i], i, n)) {
                return st_fail(err, STRATA_E_CANCELLED, "", "measuring was cancelled");
            }
        }
    }
    if (changed && place && !st_profile_save(path, out)) {
        st_debug("cannot write %s", path);
    }
    return STRATA_OK;
}

/* --- The disk ------------------------------------------------------------------------------ */

bool st_machine_known_disk(const struct st_profile *p, const struct st_file *file)
{
    return st_profile_disk(p, file->identity[0], now()) != NULL;
}

void st_machine_disk(struct st_profile *p, struct st_file *const *files, int n_files,
    const char *io_method, double seconds)
{
    struct st_io_options io;
    struct st_profile_disk disk = {.device = files[0]->identity[0], .measured = now()};
    st_io_options_init(&io);
    io.method = io_method;
    double share =
        seconds / (4 * 3 + 6) / 2; /* measuring takes two to five times as long as asked */
    for (int b = 0; b < 4; b++) {
        for (int d = 0; d < 3; d++) {
            disk.grid[b][d] = st_disk_measure(
                files, n_files, &io, st_profile_blocks[b], st_profile_depths[d], share)
                                  .sustained;
        }
    }
    /* The engine's own pattern, in passes apart: disks are not the same from one second to the
     * next. The middle one counts. */
    double passes[3];
    for (int i = 0; i < 3; i++) {
        passes[i] = st_disk_measure(files, n_files, &io, ST_DISK_BLOCK, ST_DISK_DEPTH, share * 1.5)
                        .sustained;
    }
    double least = passes[0], most = passes[0], sum = 0;
    for (int i = 0; i < 3; i++) {
        least = passes[i] < least ? passes[i] : least;
        most = passes[i] > most ? passes[i] : most;
        sum += passes[i];
    }
    disk.bytes_per_s = sum - least - most;
    double single = st_disk_measure(files, n_files, &io, 4096, 1, share).sustained;
    disk.latency_s = single > 0 ? 4096 / single : 0;
    if (disk.bytes_per_s <= 0) {
        return;
    }
    st_profile_put_disk(p, &disk);
    char path[1024];
    if (profile_path(path, sizeof path)) {
        st_profile_save(path, p);
    }
}
