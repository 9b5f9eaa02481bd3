#include "engine/preflight.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/libs.h"
#include "engine/machine.h"
#include "engine/optimize.h"
#include "engine/speed.h"
#include "model/meta.h"
#include "model/runnable.h"
#include "os/memory.h"

#define BATCH_DEFAULT 512
/* When experts are streamed, a longer pass reads them less often: up to so many tokens, until an
 * expert computes with so many rows of them on average (85 multiply-adds per byte read at 4.5 bits a
 * weight: two cores beside a disk of 500 MB/s), as long as the memory for it (intermediate results) is
 * at most this share of the budget, which slots would lose. */
#define BATCH_MOST  2048
#define ROWS_ENOUGH 48
#define BATCH_SHARE 16
#define BATCH_STEP  32
#define CTX_DEFAULT 4096
#define SEQ_MAX     256 /* llama.cpp's own limit */
#define CELLS_MAX   (1u << 30)
/* What the driver of a device without memory of its own takes, above all for compiled shaders.
 * Measured with Mesa's software driver: 40 to 85 MiB. */
#define DRIVER_BYTES (96 * FB_MIB)

uint32_t forebay_model_sequences(const struct forebay_model *m)
{
    return m->options.n_seq + m->options.n_kept;
}

/* --- Budget -------------------------------------------------------------------------------- */

/* Weights in the machine's memory, when all are loaded. */
static uint64_t host_weights(const struct forebay_model *m)
{
    return fb_devices_used(&m->devices) ? m->needs.weights_bytes : m->catalog->tensor_bytes;
}

/* What a device takes of the machine's memory. */
static uint64_t shared_bytes(const struct forebay_model *m)
{
    bool shared = m->devices.shared && fb_devices_used(&m->devices);
    return shared ? m->needs.device_bytes + DRIVER_BYTES : 0;
}

/* Beside a device the CPU has more to hold than when the graph is ours: the copies that go between
 * the two. */
uint64_t fb_later_bytes(const struct forebay_model *m)
{
    if (!fb_devices_used(&m->devices)) {
        return 0;
    }
    uint64_t driver = m->devices.shared ? m->needs.device_compute_bytes + DRIVER_BYTES : 0;
    return m->needs.compute_bytes + driver;
}

/* Plain llama.cpp in all: it loads one tensor at a time through a buffer. */
static uint64_t plain_bytes(const struct forebay_model *m)
{
    uint64_t largest = 0;
    for (int i = 0; i < m->catalog->n_tensors; i++) {
        largest = fb_max(largest, m->catalog->tensors[i].bytes);
    }
    return host_weights(m) + shared_bytes(m) + largest + m->needs.kv_bytes +
           m->needs.compute_bytes + SLACK_BYTES + fb_memory_rss();
}

/* The reference must hold everything: say so before the machine suffers. */
static enum forebay_status check_plain(const struct forebay_model *m, struct forebay_error *err)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t needed = plain_bytes(m), room = fb_memory_headroom(&state) + fb_memory_rss();
    if (needed > room) {
        return fb_fail(err, FOREBAY_E_NOFIT, "Verify on a machine with more memory.",
            "plain llama.cpp needs %s in all, %s is free", FB_SIZE(needed), FB_SIZE(room));
    }
    return FOREBAY_OK;
}

struct fb_budget fb_budget_of(const struct forebay_model *m, uint64_t pending_bytes)
{
    return (struct fb_budget){m->placement.budget_bytes, m->options.weights_mem_bytes,
        pending_bytes, fb_model_cells(m), m->options.batch, m->curves};
}

/* --- What llama.cpp is asked for ------------------------------------------------------------- */

static bool report(float fraction, void *user)
{
    struct forebay_model *m = user;
    if (!m->options.progress) {
        return true;
    }
    m->cancelled = !m->options.progress(m->binding ? "loading small tensors" : "loading weights",
        (uint64_t)((double)fraction * 1e6), 1000000, m->options.progress_user);
    return !m->cancelled;
}

bool fb_preflight_maps(const struct forebay_model *m)
{
    return m->options.plain && m->options.mmap;
}

struct llama_model_params fb_model_params(struct forebay_model *m)
{
    static ggml_backend_dev_t no_devices[] = {NULL};
    struct llama_model_params params = llama_model_default_params();
    params.devices = no_devices;
    params.n_gpu_layers = 0;
    if (fb_preflight_maps(m)) {
        params.load_mode = LLAMA_LOAD_MODE_MMAP;
    } else {
        params.load_mode = LLAMA_LOAD_MODE_NONE;
        params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    }
    params.use_extra_bufts = m->options.repack;
    params.progress_callback = report;
    params.progress_callback_user_data = m;
    fb_devices_model_params(&m->devices, &params);
    return params;
}

struct llama_context_params fb_context_params(const struct forebay_model *m)
{
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = fb_model_cells(m);
    params.n_seq_max = forebay_model_sequences(m);
    params.n_batch =
        (uint32_t)fb_max(m->options.batch, params.n_seq_max); /* it wants a row of each */
    params.n_ubatch = params.n_batch;
    params.n_outputs_max = m->options.all_logits ? params.n_batch : params.n_seq_max;
    params.kv_unified = params.n_seq_max > 1;
    params.n_threads = m->options.threads;
    params.n_threads_batch = m->options.threads;
    params.no_perf = true;
    if (m->binding) {
        /* What "auto" comes to on the CPU. With auto, llama.cpp would switch it off because the
         * attention is computed on our device and the layer is counted as the CPU's. */
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    fb_devices_context_params(&m->devices, &params);
    return params;
}

uint64_t fb_unclaimed_bytes(const struct forebay_model *m, const struct fb_weights *ws)
{
    uint64_t bytes = host_weights(m);
    for (int i = 0; i < ws->n_weights; i++) {
        bytes -= fb_min(bytes, m->catalog->tensors[ws->weights[i].tensor].bytes);
    }
    return bytes;
}

/* --- Looking --------------------------------------------------------------------------------- */

static enum forebay_status fill_defaults(struct forebay_model *m, struct forebay_error *err)
{
    struct forebay_model_options *o = &m->options;
    if (o->threads == 0) {
        o->threads = fb_machine_threads();
    }
    if (o->threads < 1 || o->threads > GGML_MAX_N_THREADS) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%d threads: must be 1 to %d", o->threads,
            GGML_MAX_N_THREADS);
    }
    m->choose_batch = o->batch == 0;
    o->batch = o->batch ? o->batch : BATCH_DEFAULT;
    o->n_seq = o->n_seq ? o->n_seq : 1;
    if (o->n_seq > SEQ_MAX || o->n_kept > SEQ_MAX - o->n_seq) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%u sequences and %u kept: %d in all at most",
            o->n_seq, o->n_kept, SEQ_MAX);
    }
    o->io_method = o->io_method ? o->io_method : "auto";
    o->device = o->device ? o->device : "auto";
    o->sidecar = o->sidecar ? o->sidecar : "auto";
    enum forebay_status status = fb_io_check_method(o->io_method, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    m->placement.budget_bytes = o->mem_bytes ? o->mem_bytes : fb_memory_default_budget();
    return FOREBAY_OK;
}

static enum forebay_status choose_ctx(struct forebay_model *m, struct forebay_error *err)
{
    uint64_t trained = fb_meta_arch_uint(m->catalog->meta, m->catalog->arch, "context_length", 0);
    uint64_t usual = trained > 0 ? fb_min(trained, CTX_DEFAULT) : CTX_DEFAULT;
    m->options.ctx = m->options.ctx ? m->options.ctx : (uint32_t)usual;
    m->options.batch = (uint32_t)fb_min(m->options.batch, m->options.ctx);
    if ((uint64_t)m->options.ctx * m->options.n_seq > CELLS_MAX) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a smaller --ctx.",
            "a context of %u tokens for each of %u sequences is too much", m->options.ctx,
            m->options.n_seq);
    }
    return FOREBAY_OK;
}

void fb_preflight_bind(struct forebay_model *m, bool measuring)
{
    fb_binding_free(m->binding);
    m->binding = fb_binding_new(m->catalog, m->options.repack, measuring);
    if (fb_devices_used(&m->devices)) {
        fb_binding_beside_device(m->binding);
    }
    if (m->sidecar) {
        fb_binding_use_sidecar(m->binding, m->sidecar);
    }
}

/* Lets llama.cpp go through loading without memory. `user` is the model. */
static enum forebay_status measure_once(
    void *user, struct fb_needs *needs, struct forebay_error *err)
{
    struct forebay_model *m = user;
    fb_preflight_bind(m, true);
    return fb_guard_measure(
        m->catalog->files[0]->path, fb_model_params(m), fb_context_params(m), needs, err);
}

/* Measures without a device, then with as many layers on it as fit. */
static enum forebay_status measure_devices(struct forebay_model *m, struct forebay_error *err)
{
    enum forebay_status status = measure_once(m, &m->needs, err);
    if (status != FOREBAY_OK || !m->devices.list[0]) {
        return status;
    }
    m->devices.room_bytes =
        fb_devices_room(&m->devices, m->options.device_mem_bytes, m->placement.budget_bytes);
    status = fb_devices_place(&m->devices, m->catalog, measure_once, m, &m->needs, err);
    if (status == FOREBAY_OK) { /* the last one measured need not be the one that was chosen */
        status = measure_once(m, &m->needs, err);
    }
    return status;
}

static enum forebay_status plan_once(struct forebay_model *m, struct forebay_error *err)
{
    struct fb_budget budget = fb_budget_of(m, fb_pending_bytes(m));
    fb_plan_free(m->plan);
    m->plan = NULL;
    return fb_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
}

/* What is known of the model's experts, by group: for other groups it must be found out again. */
static void forget_groups(struct forebay_model *m)
{
    fb_history_free(m->history);
    fb_curves_free(m->curves);
    m->history = NULL;
    m->curves = NULL;
}

/* A larger batch may leave a device room for fewer layers, and us with more of them. */
static enum forebay_status plan_batch(
    struct forebay_model *m, uint32_t batch, struct forebay_error *err)
{
    m->options.batch = batch;
    enum forebay_status status = measure_devices(m, err);
    if (status == FOREBAY_OK && m->curves->n_groups != fb_binding_weights(m->binding)->n_groups) {
        forget_groups(m);
        status = fb_speed_gather(m, err);
    }
    return status == FOREBAY_OK ? plan_once(m, err) : status;
}

/* The largest batch that the memory allows, if nobody gave one. It grows with the budget in small
 * steps, so that more memory always leaves more for weights too; and not where memory is scarce. */
static uint32_t best_batch(const struct forebay_model *m)
{
    uint32_t usual = m->options.batch, used = (uint32_t)m->catalog->n_expert_used;
    uint64_t enough = used ? ROWS_ENOUGH * (uint64_t)m->catalog->n_expert / used : 0;
    uint32_t most = (uint32_t)fb_min(fb_min(BATCH_MOST, enough), m->options.ctx);
    double each = (double)m->needs.compute_bytes / usual;
    uint64_t budget = m->placement.budget_bytes;
    uint64_t least = m->placement.context_bytes + fb_plan_minimum(fb_binding_weights(m->binding));
    uint64_t spare = budget - fb_min(budget, least);
    double more = (double)fb_min(budget / BATCH_SHARE, spare / 4) / each;
    if (!m->choose_batch || most <= usual) {
        return usual;
    }
    return usual + (uint32_t)fmin(most - usual, more) / BATCH_STEP * BATCH_STEP;
}

/* Plans for streaming, with a batch that suits. */
static enum forebay_status plan_streaming(struct forebay_model *m, struct forebay_error *err)
{
    enum forebay_status status = plan_once(m, err);
    if (status != FOREBAY_OK || m->plan->everything_fits) {
        return status;
    }
    uint32_t usual = m->options.batch, batch = best_batch(m);
    struct forebay_error unused;
    if (batch > usual && plan_batch(m, batch, &unused) != FOREBAY_OK) {
        status = plan_batch(m, usual, err);
    }
    return status;
}

static enum forebay_status measure_and_plan(struct forebay_model *m, struct forebay_error *err)
{
    enum forebay_status status = measure_devices(m, err);
    if (status == FOREBAY_OK && !m->options.plain) {
        status = fb_speed_gather(m, err);
    }
    if (status != FOREBAY_OK || m->options.plain) {
        return status;
    }
    status = plan_streaming(m, err);
    if (status == FOREBAY_OK && !m->plan->everything_fits) {
        fb_speed_probe_disk(m);
    }
    if (status == FOREBAY_OK && !fb_devices_used(&m->devices)) { /* a GPU was never measured */
        fb_speed_estimate(m, m->plan, m->disk_bytes_per_s, fb_speed_usual_past(m), &m->speed);
    }
    return status;
}

/* Measures, and plans with what llama.cpp says it would take: a budget that is too small is refused
 * before a byte of weights is read. */
static enum forebay_status measure(struct forebay_model *m, struct forebay_error *err)
{
    if (fb_preflight_maps(m) && !m->devices.list[0]) {
        return FOREBAY_OK; /* nothing to place, and our device stays unknown to llama.cpp */
    }
    fb_device_register();
    enum forebay_status status = measure_and_plan(m, err);
    /* What such a device holds cannot be streamed. Unless it was asked for, better do without. */
    if (status == FOREBAY_E_NOFIT && m->devices.shared && strcmp(m->options.device, "auto") == 0) {
        fb_devices_release(&m->devices);
        forget_groups(m);
        status = measure_and_plan(m, err);
    }
    return status;
}

uint64_t fb_pending_bytes(const struct forebay_model *m)
{
    return fb_unclaimed_bytes(m, fb_binding_weights(m->binding)) + m->needs.kv_bytes +
           m->needs.compute_bytes + shared_bytes(m);
}

/* Options, device and catalogue. */
static enum forebay_status open_model(
    struct forebay_model *m, const char *path, struct forebay_error *err)
{
    enum forebay_status status = fb_libs_load(err);
    if (status == FOREBAY_OK) {
        status = fill_defaults(m, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_devices_find(&m->devices, m->options.device, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_catalog_open(path, true, &m->catalog, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_catalog_check_runnable(m->catalog, err);
    }
    if (status == FOREBAY_OK) {
        status = choose_ctx(m, err);
    }
    return status;
}

enum forebay_status fb_preflight_weights(
    struct forebay_model *m, const char *path, struct forebay_error *err)
{
    m->options.device = "none";
    enum forebay_status status = open_model(m, path, err);
    if (status == FOREBAY_OK) {
        fb_device_register();
        status = measure_once(m, &m->needs, err);
    }
    return status;
}

enum forebay_status fb_preflight(
    struct forebay_model *m, const char *path, struct forebay_error *err)
{
    enum forebay_status status = open_model(m, path, err);
    if (status == FOREBAY_OK) {
        status = fb_optimized_open(m, err);
    }
    if (status == FOREBAY_OK) {
        status = measure(m, err);
    }
    if (status == FOREBAY_OK && m->options.plain && !m->options.mmap) {
        status = check_plain(m, err);
    }
    return status;
}

void fb_preflight_forget(struct forebay_model *m)
{
    fb_binding_free(m->binding);
    fb_plan_free(m->plan);
    m->binding = NULL;
    m->plan = NULL;
}

static void describe_device(struct forebay_model *m)
{
    struct forebay_placement *p = &m->placement;
    struct forebay_device_use *use = &p->device;
    const char *name = "none";
    p->n_layers = m->catalog->n_layer;
    if (fb_devices_used(&m->devices)) {
        name = ggml_backend_dev_name(m->devices.list[0]);
        use->n_layers = m->devices.plan.n_layers;
        use->n_whole = m->catalog->n_expert ? m->devices.plan.n_whole : use->n_layers;
        use->bytes = m->needs.device_bytes;
        use->room_bytes = m->devices.room_bytes;
    }
    snprintf(use->name, sizeof use->name, "%s", name);
}

void fb_preflight_placement(struct forebay_model *m)
{
    struct forebay_placement *p = &m->placement;
    p->weights_bytes = m->catalog->tensor_bytes;
    p->kv_bytes = m->needs.kv_bytes;
    p->compute_bytes = m->needs.compute_bytes;
    p->fits = !m->plan || m->plan->everything_fits;
    p->batch = m->options.batch;
    p->resident_bytes = host_weights(m);
    describe_device(m);
    if (!m->plan) {
        p->context_bytes = p->kv_bytes + p->compute_bytes;
        return;
    }
    const struct fb_weights *ws = fb_binding_weights(m->binding);
    p->minimum_bytes = p->context_bytes + fb_plan_minimum(ws);
    p->fixed_bytes = fb_unclaimed_bytes(m, ws);
    p->resident_bytes = p->fixed_bytes + m->plan->resident_bytes;
    p->cache_bytes = m->plan->cache_bytes;
    p->sidecar_bytes = m->sidecar ? fb_binding_sidecar_bytes(m->binding) : 0;
    p->ring_bytes = m->plan->total_bytes - m->plan->resident_bytes - m->plan->cache_bytes;
    p->streamed_bytes = m->plan->streamed_bytes;
    p->n_slots = m->plan->shared_slots;
    for (int g = 0; g < ws->n_groups; g++) {
        p->n_slots += m->plan->slots ? m->plan->slots[g] : 0;
        p->n_experts += ws->groups[g].n_expert;
    }
}
