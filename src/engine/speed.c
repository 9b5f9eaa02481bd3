#include "engine/speed.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/units.h"
#include "engine/machine.h"
#include "hw/disk.h"
#include "model/meta.h"
#include "os/memory.h"

#define PROBE_SECONDS 0.2
/* What one read alone takes longer than its bytes is the disk's latency. */
#define ALONE_BLOCK   (256u << 10)
#define ALONE_SECONDS 0.01

/* --- What is known -------------------------------------------------------------------------- */

#define MOST_KINDS 48 /* of weights, that rates are wanted for */

static int add_kind(struct fb_machine_kind *kinds, int n, struct fb_machine_kind kind)
{
    for (int i = 0; i < n; i++) {
        if (memcmp(&kinds[i], &kind, sizeof kind) == 0) {
            return n;
        }
    }
    if (n < MOST_KINDS) {
        kinds[n++] = kind;
    }
    return n;
}

enum forebay_status fb_speed_gather(struct forebay_model *m, struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(m->binding);
    m->history = fb_history_open(ws);
    m->curves = fb_curves_new(ws, fb_history_reuse(m->history));
    struct fb_machine_kind kinds[MOST_KINDS];
    int n = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_tensor *t = &m->catalog->tensors[ws->weights[i].tensor];
        n = add_kind(kinds, n, (struct fb_machine_kind){.type = t->type});
        if (ws->weights[i].group >= 0) {
            n = add_kind(kinds, n,
                (struct fb_machine_kind){
                    t->type, (int)t->ne[0], (int)t->ne[1], m->catalog->n_expert_used});
        }
    }
    uint64_t taken = fb_memory_rss() + SLACK_BYTES;
    struct fb_machine_request rq = {
        .kinds = kinds,
        .n_kinds = n,
        .repack = m->options.repack,
        .threads = m->options.threads,
        .room_bytes = m->placement.budget_bytes > taken ? m->placement.budget_bytes - taken : 0,
        .progress = m->options.progress,
        .progress_user = m->options.progress_user,
    };
    return fb_machine_profile(&rq, &m->profile, err);
}

void fb_speed_probe_disk(struct forebay_model *m)
{
    if (m->options.disk_bytes_per_s > 0) {
        m->disk_bytes_per_s = (double)m->options.disk_bytes_per_s;
        m->disk_burst = 1;
        return;
    }
    struct fb_io_options io;
    fb_io_options_init(&io);
    /* Faults are for the run, not for what comes before it. */
    bool faults = strncmp(m->options.io_method, "fault:", 6) == 0;
    io.method = faults ? "auto" : m->options.io_method;
    struct fb_file *sidecar = m->sidecar ? fb_sidecar_file(m->sidecar) : NULL;
    struct fb_file *const *files = sidecar ? &sidecar : m->catalog->files;
    int n = sidecar ? 1 : m->catalog->n_files;
    double alone = 0;
    for (int i = 0; i < 3; i++) { /* what disturbs only makes it slower */
        struct fb_disk_speed one = fb_disk_measure(files, n, &io, ALONE_BLOCK, 1, ALONE_SECONDS);
        alone = fmax(alone, one.sustained);
    }
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* or there would be no burst */
    struct fb_disk_speed speed =
        fb_disk_measure(files, n, &io, FB_DISK_BLOCK, FB_DISK_DEPTH, PROBE_SECONDS);
    m->disk_bytes_per_s = speed.sustained;
    m->disk_burst = speed.sustained > 0 ? speed.burst / speed.sustained : 1;
    m->disk_cpu_s = speed.cpu_s;
    if (alone > 0 && speed.burst > 0) {
        double latency = ALONE_BLOCK / alone - ALONE_BLOCK / speed.burst;
        m->disk_latency_s = latency > 0 ? latency : 0;
    }
}

/* --- What follows from it --------------------------------------------------------------------- */

static const char *type_name(int type)
{
    return ggml_type_name((enum ggml_type)type);
}

double fb_speed_usual_past(const struct forebay_model *m)
{
    return fb_min(m->options.batch, m->options.ctx);
}

/* Each head reads its keys and values, which several may share: a multiply-add for each of them. Where
 * layers differ or see only a window, this is too much or too little. */
double fb_speed_attention_s(const struct forebay_model *m, double past, bool batch)
{
    const struct gguf_context *meta = m->catalog->meta;
    double heads = (double)fb_meta_arch_uint(meta, m->catalog->arch, "attention.head_count", 1);
    double shared = (double)fb_meta_arch_uint(meta, m->catalog->arch, "attention.head_count_kv", 0);
    double cached = (double)m->needs.kv_bytes / sizeof(uint16_t) * past / fb_model_cells(m);
    const struct fb_profile_rate *r =
        fb_profile_rate(&m->profile, FB_PROFILE_ATTENTION, false, m->options.threads);
    double rate = !r ? 0 : batch ? r->batch : r->decode;
    return rate > 0 ? cached * (shared > 0 ? heads / shared : 1) / rate : 0;
}

void fb_speed_estimate(const struct forebay_model *m, const struct fb_plan *plan, double disk,
    double past, struct fb_speed *out)
{
    const struct fb_weights *ws = fb_binding_weights(m->binding);
    uint64_t touched = fb_catalog_bytes_per_token(m->catalog), ours = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        ours += w->file_bytes * (w->group < 0 ? 1 : (uint64_t)m->catalog->n_expert_used);
    }
    struct fb_speed_inputs in = {
        .weights = ws,
        .plan = plan,
        .curves = m->curves,
        .profile = &m->profile,
        .type_name = type_name,
        .threads = m->options.threads,
        .repack = m->options.repack,
        .disk_bytes_per_s = disk > 0 ? disk : 1,
        .disk_burst = m->disk_burst,
        .disk_latency_s = m->disk_latency_s,
        .other_bytes = touched > ours ? touched - ours : 0,
        .lookahead = m->options.lookahead > 0 ? fb_history_lookahead(m->history) : 0,
        .attention_s = fb_speed_attention_s(m, past, false),
        .prompt_attention_s = fb_speed_attention_s(m, m->options.batch / 2.0, true),
        .read_cpu_s = m->disk_cpu_s,
        .compute_s = fb_history_compute_s(m->history, m->options.threads, m->options.repack),
        .prompt_compute_s = fb_history_prompt_s(m->history, m->options.threads, m->options.repack),
        .batch = m->options.batch,
    };
    fb_estimate(&in, out);
}
