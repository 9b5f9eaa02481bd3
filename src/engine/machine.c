/*
 * machine.c - completes the profile of this machine (hw/profile.h) by measuring, and
 * forebay_profile.
 *
 * A profile belongs to a processor, a number of cores, a size of memory and a version of llama.cpp.
 * Rates are measured by computing with small tensors of each kind of weight (backend/compute.h);
 * the disk, by reading blocks of several sizes at several depths.
 */
#include "engine/machine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/compute.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/libs.h"
#include "ggml.h"
#include "hw/disk.h"
#include "llama.h"
#include "model/catalog.h"
#include "os/cpu.h"
#include "os/cpu_use.h"
#include "os/dirs.h"
#include "os/memory.h"
#include "plan/thread_governor.h"

#define TYPE_SECONDS   0.08
#define EXPERT_SECONDS 0.06
#define MEMORY_SECONDS 0.1
#define WATCH_NS       100000000 /* readings of the processors' use have a resolution of 10 ms */

static int64_t now(void)
{
    return (int64_t)time(NULL);
}

/* Identity of the machine: a profile of another one is not used. */
static void describe_machine(char *text, size_t cap)
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

bool fb_machine_remembers(void)
{
    char path[1024];
    return profile_path(path, sizeof path);
}

void fb_machine_remember(const struct fb_profile *profile)
{
    char path[1024];
    if (profile_path(path, sizeof path) && !fb_profile_save(path, profile)) {
        fb_debug("cannot write %s", path);
    }
}

/* --- Kinds of weights ---------------------------------------------------------------------- */

static int add_kind(struct fb_machine_kind *kinds, int n, int cap, struct fb_machine_kind kind)
{
    for (int i = 0; i < n; i++) {
        if (memcmp(&kinds[i], &kind, sizeof kind) == 0) {
            return n;
        }
    }
    if (n < cap) {
        kinds[n++] = kind;
    }
    return n;
}

int fb_machine_kinds_of(const struct fb_weights *ws, struct fb_machine_kind *kinds, int cap)
{
    int n = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_tensor *t = &ws->catalog->tensors[ws->weights[i].tensor];
        n = add_kind(kinds, n, cap, (struct fb_machine_kind){.type = t->type});
        if (ws->weights[i].group >= 0) {
            n = add_kind(kinds, n, cap,
                (struct fb_machine_kind){
                    t->type, (int)t->ne[0], (int)t->ne[1], ws->catalog->n_expert_used});
        }
    }
    return n;
}

int fb_machine_add_types(
    const struct fb_catalog *catalog, struct fb_machine_kind *kinds, int n, int cap)
{
    for (int i = 0; i < catalog->n_tensors; i++) {
        if (catalog->tensors[i].matrix) {
            n = add_kind(kinds, n, cap, (struct fb_machine_kind){.type = catalog->tensors[i].type});
        }
    }
    return n;
}

/* --- Computing ----------------------------------------------------------------------------- */

static bool known(const struct fb_machine_request *rq, const struct fb_profile *p,
    const struct fb_machine_kind *kind, bool repack, int threads)
{
    return !rq->again && fb_profile_expert_rate(p, ggml_type_name((enum ggml_type)kind->type),
                             repack, threads, kind->columns, kind->rows, kind->used);
}

/* Measures a kind in one layout. Types that the CPU does not repack get the rate of the layout as
 * stored, and experts for which there is too little room that of their type, so that they are not
 * measured again. */
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
        .unpack = r.unpack};
    snprintf(rate.type, sizeof rate.type, "%s", name);
    fb_profile_put_rate(p, &rate);
}

/* A profile that was measured while other programs computed is dropped when they do not any more.
 * Disks stay: they were hardly slower. */
static void drop_busy(struct fb_profile *p)
{
    int n_cpus;
    if (p->other_cores > FB_BUSY_CORES && fb_cpu_use_watch(WATCH_NS, &n_cpus) < FB_BUSY_CORES) {
        fb_profile_drop_cpu(p);
        p->op_s = p->other_cores = 0;
    }
}

/* Notes what other programs used since `from`. */
static void note_others(struct fb_profile *p, const struct fb_cpu_use *from)
{
    struct fb_cpu_use now;
    if (from->n_cpus > 0 && fb_cpu_use_read(&now)) {
        p->other_cores = fmax(p->other_cores, fb_cpu_use_by_others(from, &now));
    }
}

/* Computes with as many threads as a run would at this moment. */
static void limit_threads(struct fb_bench *bench, int threads)
{
    struct fb_thread_governor g;
    if (threads > 1) {
        int n_cpus;
        double used = fb_cpu_use_watch(WATCH_NS, &n_cpus);
        fb_thread_governor_init(&g, threads, fb_cpu_count(), 0);
        fb_bench_limit(bench, fb_thread_governor_decide(&g, 0, used, n_cpus));
    }
}

/* Whether a rate for this number of threads is to be measured. */
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

/* Measures the missing rates with so many threads, as step `step` of `steps`. False when the
 * progress callback stopped it. */
static bool measure_compute(
    const struct fb_machine_request *rq, struct fb_profile *p, int threads, int step, int steps)
{
    struct fb_bench *bench = fb_bench_new(threads, rq->room_bytes);
    struct fb_cpu_use before = {0};
    bool proceed = true;
    if (!bench) {
        return true;
    }
    fb_cpu_use_read(&before);
    limit_threads(bench, threads);
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
    for (int i = 0; i < rq->n_kinds && proceed; i++) {
        for (int repack = 0; repack <= (rq->repack ? 1 : 0); repack++) {
            if (!known(rq, p, &rq->kinds[i], repack, threads)) {
                measure_kind(p, bench, &rq->kinds[i], repack, threads);
            }
        }
        proceed = !rq->progress ||
                  rq->progress("measuring the processor", (uint64_t)(step * rq->n_kinds + i + 1),
                      (uint64_t)(steps * rq->n_kinds), rq->progress_user);
    }
    note_others(p, &before);
    fb_bench_free(bench);
    return proceed;
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
    describe_machine(machine, sizeof machine);
    fb_profile_load(place ? path : "", machine, now(), out, &why);
    if (why && place && strcmp(why, "there is none yet") != 0) {
        fb_warn("measuring the machine again, %s cannot be used: %s", path, why);
    }
    drop_busy(out);
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
    /* 18 measurements, each of which takes two to five times as long as asked. */
    double share = seconds / (4 * 3 + 6) / 2;
    for (int b = 0; b < 4; b++) {
        for (int d = 0; d < 3; d++) {
            disk.grid[b][d] = fb_disk_measure(
                files, n_files, &io, fb_profile_blocks[b], fb_profile_depths[d], share)
                                  .sustained;
        }
    }
    /* The engine's own pattern, three times because disks vary from second to second. The median
     * counts. */
    double tries[3];
    for (int i = 0; i < 3; i++) {
        tries[i] =
            fb_disk_measure(files, n_files, &io, FB_DISK_READ_BYTES, FB_DISK_DEPTH, share * 1.5)
                .sustained;
    }
    double least = tries[0], most = tries[0], sum = 0;
    for (int i = 0; i < 3; i++) {
        least = tries[i] < least ? tries[i] : least;
        most = tries[i] > most ? tries[i] : most;
        sum += tries[i];
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

#define USUAL_DISK_SECONDS 1.0

const struct fb_profile_disk *fb_machine_usual_disk(
    struct fb_profile *p, struct fb_file *const *files, int n_files, const char *io_method)
{
    if (!fb_machine_known_disk(p, files[0]) && fb_machine_remembers()) {
        fb_machine_disk(p, files, n_files, io_method, USUAL_DISK_SECONDS);
    }
    return fb_profile_disk(p, files[0]->identity[0], now());
}

/* --- forebay_profile ----------------------------------------------------------------------- */

#define DISK_SECONDS 5.0

enum forebay_status forebay_profile(const char *model_path, bool again, forebay_progress progress,
    void *progress_user, char **json, struct forebay_error *err)
{
    static const int types[] = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q4_0,
        GGML_TYPE_Q5_0, GGML_TYPE_Q8_0, GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K,
        GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS, GGML_TYPE_MXFP4};
    struct fb_machine_kind kinds[sizeof types / sizeof *types] = {0};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        kinds[i].type = types[i];
    }
    struct fb_profile profile;
    struct fb_machine_request rq = {
        .kinds = kinds,
        .n_kinds = sizeof kinds / sizeof *kinds,
        .repack = true,
        .room_bytes = fb_memory_default_budget(),
        .again = again,
        .progress = progress,
        .progress_user = progress_user,
    };
    enum forebay_status status = fb_libs_load(err);
    struct fb_catalog *catalog = NULL;
    if (status == FOREBAY_OK && model_path) {
        status = fb_catalog_open(model_path, true, &catalog, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_machine_profile(&rq, &profile, err);
    }
    if (status == FOREBAY_OK && catalog) {
        if (again || !fb_machine_known_disk(&profile, catalog->files[0])) {
            if (progress) {
                progress("measuring the disk", 0, 1, progress_user);
            }
            fb_machine_disk(&profile, catalog->files, catalog->n_files, "auto", DISK_SECONDS);
        }
    }
    fb_catalog_free(catalog);
    if (status == FOREBAY_OK) {
        *json = fb_profile_json(&profile);
    }
    return status;
}
