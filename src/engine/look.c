#include "engine/look.h"

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
#define DRIVER_BYTES (96 * ST_MIB)

uint32_t strata_model_sequences(const struct strata_model *m)
{
    return m->options.n_seq + m->options.n_kept;
}

/* --- Budget -------------------------------------------------------------------------------- */

/* Weights in the machine's memory, when all are loaded. */
static uint64_t host_weights(const struct strata_model *m)
{
    return st_devices_used(&m->devices) ? m->needs.weights_bytes : m->catalog->tensor_bytes;
}

/* What a device takes of the machine's memory. */
static uint64_t shared_bytes(const struct strata_model *m)
{
    bool shared = m->devices.shared && st_devices_used(&m->devices);
    return shared ? m->needs.device_bytes + DRIVER_BYTES : 0;
}

/* Beside a device the CPU has more to hold than when the graph is ours: the copies that go between
 * the two. */
uint64_t st_later_bytes(const struct strata_model *m)
{
    if (!st_devices_used(&m->devices)) {
        return 0;
    }
    uint64_t driver = m->devices.shared ? m->needs.device_compute_bytes + DRIVER_BYTES : 0;
    return m->needs.compute_bytes + driver;
}

/* Plain llama.cpp in all: it loads one tensor at a time through a buffer. */
static uint64_t plain_bytes(const struct strata_model *m)
{
    uint64_t largest = 0;
    for (int i = 0; i < m->catalog->n_tensors; i++) {
        largest = st_max(largest, m->catalog->tensors[i].bytes);
    }
    return host_weights(m) + shared_bytes(m) + largest + m->needs.kv_bytes +
           m->needs.compute_bytes + SLACK_BYTES + st_memory_rss();
}

/* The reference must hold everything: say so before the machine suffers. */
static enum strata_status check_plain(const struct strata_model *m, struct strata_error *err)
{
    struct st_memory_state state;
    st_memory_state(&state);
    uint64_t needed = plain_bytes(m), room = st_memory_headroom(&state) + st_memory_rss();
    if (needed > room) {
        return st_fail(err, STRATA_E_NOFIT, "Verify on a machine with more memory.",
            "plain llama.cpp needs %s in all, %s is free", ST_SIZE(needed), ST_SIZE(room));
    }
    return STRATA_OK;
}

struct st_budget st_budget_of(const struct strata_model *m, uint64_t pending_bytes)
{
    return (struct st_budget){m->placement.budget_bytes, m->options.weights_mem_bytes,
        pending_bytes, st_model_cells(m), m->options.batch, m->curves};
}

/* --- What llama.cpp is asked for ------------------------------------------------------------- */

static bool report(float fraction, void *user)
{
    struct strata_model *m = user;
    if (!m->options.progress) {
        return true;
    }
    m->cancelled = !m->options.progress(m->binding ? "loading small tensors" : "loading weights",
        (uint64_t)((double)fraction * 1e6), 1000000, m->options.progress_user);
    return !m->cancelled;
}

bool st_look_maps(const struct strata_model *m)
{
    return m->options.plain && m->options.mmap;
}

struct llama_model_params st_model_params(struct strata_model *m)
{
    static ggml_backend_dev_t no_devices[] = {NULL};
    struct llama_model_params params = llama_model_default_params();
    params.devices = no_devices;
    params.n_gpu_layers = 0;
    if (st_look_maps(m)) {
        params.load_mode = LLAMA_LOAD_MODE_MMAP;
    } else {
        params.load_mode = LLAMA_LOAD_MODE_NONE;
        params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    }
    params.use_extra_bufts = m->options.repack;
    params.progress_callback = report;
    params.progress_callback_user_data = m;
    st_devices_model_params(&m->devices, &params);
    return params;
}

struct llama_context_params st_context_params(const struct strata_model *m)
{
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = st_model_cells(m);
    params.n_seq_max = strata_model_sequences(m);
    params.n_batch =
        (uint32_t)st_max(m->options.batch, params.n_seq_max); /* it wants a row of each */
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
    st_devices_context_params(&m->devices, &params);
    return params;
}

uint64_t st_unclaimed_bytes(const struct strata_model *m, const struct st_weights *ws)
{
    uint64_t bytes = host_weights(m);
    for (int i = 0; i < ws->n_weights; i++) {
        bytes -= st_min(bytes, m->catalog->tensors[ws->weights[i].tensor].bytes);
    }
    return bytes;
}

/* --- Looking --------------------------------------------------------------------------------- */

static enum strata_status fill_defaults(struct strata_model *m, struct strata_error *err)
{
    struct strata_model_options *o = &m->options;
    if (o->threads == 0) {
        o->threads = st_machine_threads();
    }
    if (o->threads < 1 || o->threads > GGML_MAX_N_THREADS) {
        return st_fail(
            err, STRATA_E_USAGE, "", "%d threads: must be 1 to %d", o->threads, GGML_MAX_N_THREADS);
    }
    m->choose_batch = o->batch == 0;
    o->batch = o->batch ? o->batch : BATCH_DEFAULT;
    o->n_seq = o->n_seq ? o->n_seq : 1;
    if (o->n_seq > SEQ_MAX || o->n_kept > SEQ_MAX - o->n_seq) {
        return st_fail(err, STRATA_E_USAGE, "", "%u sequences and %u kept: %d in all at most",
            o->n_seq, o->n_kept, SEQ_MAX);
    }
    o->io_method = o->io_method ? o->io_method : "auto";
    o->device = o->device ? o->device : "auto";
    o->sidecar = o->sidecar ? o->sidecar : "auto";
    enum strata_status status = st_io_check_method(o->io_method, err);
    if (status != STRATA_OK) {
        return status;
    }
    m->placement.budget_bytes = o->mem_bytes ? o->mem_bytes : st_memory_default_budget();
    return STRATA_OK;
}

static enum strata_status choose_ctx(struct strata_model *m, struct strata_error *err)
{
    uint64_t trained = st_meta_arch_uint(m->catalog->meta, m->catalog->arch, "context_length", 0);
    uint64_t usual = trained > 0 ? st_min(trained, CTX_DEFAULT) : CTX_DEFAULT;
    m->options.ctx = m->options.ctx ? m->options.ctx : (uint32_t)usual;
    m->options.batch = (uint32_t)st_min(m->options.batch, m->options.ctx);
    if ((uint64_t)m->options.ctx * m->options.n_seq > CELLS_MAX) {
        return st_fail(err, STRATA_E_USAGE, "Give a smaller --ctx.",
            "a context of %u tokens for each of %u sequences is too much", m->options.ctx,
            m->options.n_seq);
    }
    return STRATA_OK;
}

void st_look_bind(struct strata_model *m, bool measuring)
{
    st_binding_free(m->binding);
    m->binding = st_binding_new(m->catalog, m->options.repack, measuring);
    if (st_devices_used(&m->devices)) {
        st_binding_beside_device(m->binding);
    }
    if (m->sidecar) {
        st_binding_use_sidecar(m->binding, m->sidecar);
    }
}

/* Lets llama.cpp go through loading without memory. `user` is the model. */
static enum strata_status measure_once(void *user, struct st_needs *needs, struct strata_error *err)
{
    struct strata_model *m = user;
    st_look_bind(m, true);
    return st_guard_measure(
        m->catalog->files[0]->path, st_model_params(m), st_context_params(m), needs, err);
}

/* Measures without a device, then with as many layers on it as fit. */
static enum strata_status measure_devices(struct strata_model *m, struct strata_error *err)
{
    enum strata_status status = measure_once(m, &m->needs, err);
    if (status != STRATA_OK || !m->devices.list[0]) {
        return status;
    }
    m->devices.room_bytes =
        st_devices_room(&m->devices, m->options.device_mem_bytes, m->placement.budget_bytes);
    status = st_devices_place(&m->devices, m->catalog, measure_once, m, &m->needs, err);
    if (status == STRATA_OK) { /* the last one measured need not be the one that was chosen */
        status = measure_once(m, &m->needs, err);
    }
    return status;
}

static enum strata_status plan_once(struct strata_model *m, struct strata_error *err)
{
    struct st_budget budget = st_budget_of(m, st_pending_bytes(m));
    st_plan_free(m->plan);
    m->plan = NULL;
    return st_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
}

/* What is known of the model's experts, by group: for other groups it must be found out again. */
static void forget_groups(struct strata_model *m)
{
    st_history_free(m->history);
    st_curves_free(m->curves);
    m->history = NULL;
    m->curves = NULL;
}

/* A larger batch may leave a device room for fewer layers, and us with more of them. */
static enum strata_status plan_batch(
    struct strata_model *m, uint32_t batch, struct strata_error *err)
{
    m->options.batch = batch;
    enum strata_status status = measure_devices(m, err);
    if (status == STRATA_OK && m->curves->n_groups != st_binding_weights(m->binding)->n_groups) {
        forget_groups(m);
        status = st_speed_gather(m, err);
    }
    return status == STRATA_OK ? plan_once(m, err) : status;
}

/* The largest batch that the memory allows, if nobody gave one. It grows with the budget in small
 * steps, so that more memory always leaves more for weights too; and not where memory is scarce. */
static uint32_t best_batch(const struct strata_model *m)
{
    uint32_t usual = m->options.batch, used = (uint32_t)m->catalog->n_expert_used;
    uint64_t enough = used ? ROWS_ENOUGH * (uint64_t)m->catalog->n_expert / used : 0;
    uint32_t most = (uint32_t)st_min(st_min(BATCH_MOST, enough), m->options.ctx);
    double each = (double)m->needs.compute_bytes / usual;
    uint64_t budget = m->placement.budget_bytes;
    uint64_t least = m->placement.context_bytes + st_plan_minimum(st_binding_weights(m->binding));
    uint64_t spare = budget - st_min(budget, least);
    double more = (double)st_min(budget / BATCH_SHARE, spare / 4) / each;
    if (!m->choose_batch || most <= usual) {
        return usual;
    }
    return usual + (uint32_t)fmin(most - usual, more) / BATCH_STEP * BATCH_STEP;
}

/* Plans for streaming, with a batch that suits. */
static enum strata_status plan_streaming(struct strata_model *m, struct strata_error *err)
{
    enum strata_status status = plan_once(m, err);
    if (status != STRATA_OK || m->plan->everything_fits) {
        return status;
    }
    uint32_t usual = m->options.batch, batch = best_batch(m);
    struct strata_error unused;
    if (batch > usual && plan_batch(m, batch, &unused) != STRATA_OK) {
        status = plan_batch(m, usual, err);
    }
    return status;
}

static enum strata_status measure_and_plan(struct strata_model *m, struct strata_error *err)
{
    enum strata_status status = measure_devices(m, err);
    if (status == STRATA_OK && !m->options.plain) {
        status = st_speed_gather(m, err);
    }
    if (status != STRATA_OK || m->options.plain) {
        return status;
    }
    status = plan_streaming(m, err);
    if (status == STRATA_OK && !m->plan->everything_fits) {
        st_speed_probe_disk(m);
    }
    if (status == STRATA_OK && !st_devices_used(&m->devices)) { /* a GPU was never measured */
        st_speed_predict(m, m->plan, m->disk_bytes_per_s, st_speed_usual_past(m), &m->speed);
    }
    return status;
}

/* Measures, and plans with what llama.cpp says it would take: a budget that is too small is refused
 * before a byte of weights is read. */
static enum strata_status measure(struct strata_model *m, struct strata_error *err)
{
    if (st_look_maps(m) && !m->devices.list[0]) {
        return STRATA_OK; /* nothing to place, and our device stays unknown to llama.cpp */
    }
    st_device_register();
    enum strata_status status = measure_and_plan(m, err);
    /* What such a device holds cannot be streamed. Unless it was asked for, better do without. */
    if (status == STRATA_E_NOFIT && m->devices.shared && strcmp(m->options.device, "auto") == 0) {
        st_devices_release(&m->devices);
        forget_groups(m);
        status = measure_and_plan(m, err);
    }
    return status;
}

uint64_t st_pending_bytes(const struct strata_model *m)
{
    return st_unclaimed_bytes(m, st_binding_weights(m->binding)) + m->needs.kv_bytes +
           m->needs.compute_bytes + shared_bytes(m);
}

/* Options, device and catalogue. */
static enum strata_status open_model(
    struct strata_model *m, const char *path, struct strata_error *err)
{
    enum strata_status status = st_libs_load(err);
    if (status == STRATA_OK) {
        status = fill_defaults(m, err);
    }
    if (status == STRATA_OK) {
        status = st_devices_find(&m->devices, m->options.device, err);
    }
    if (status == STRATA_OK) {
        status = st_catalog_open(path, true, &m->catalog, err);
    }
    if (status == STRATA_OK) {
        status = st_catalog_check_runnable(m->catalog, err);
    }
    if (status == STRATA_OK) {
        status = choose_ctx(m, err);
    }
    return status;
}

enum strata_status st_look_weights(
    struct strata_model *m, const char *path, struct strata_error *err)
{
    m->options.device = "none";
    enum strata_status status = open_model(m, path, err);
    if (status == STRATA_OK) {
        st_device_register();
        status = measure_once(m, &m->needs, err);
    }
    return status;
}

enum strata_status st_look(struct strata_model *m, const char *path, struct strata_error *err)
{
    enum strata_status status = open_model(m, path, err);
    if (status == STRATA_OK) {
        status = st_optimized_open(m, err);
    }
    if (status == STRATA_OK) {
        status = measure(m, err);
    }
    if (status == STRATA_OK && m->options.plain && !m->options.mmap) {
        status = check_plain(m, err);
    }
    return status;
}

void st_look_forget(struct strata_model *m)
{
    st_binding_free(m->binding);
    st_plan_free(m->plan);
    m->binding = NULL;
    m->plan = NULL;
}

static void describe_device(struct strata_model *m)
{
    struct strata_placement *p = &m->placement;
    struct strata_device_use *use = &p->device;
    const char *name = "none";
    p->n_layers = m->catalog->n_layer;
    if (st_devices_used(&m->devices)) {
        name = ggml_backend_dev_name(m->devices.list[0]);
        use->n_layers = m->devices.plan.n_layers;
        use->n_whole = m->catalog->n_expert ? m->devices.plan.n_whole : use->n_layers;
        use->bytes = m->needs.device_bytes;
        use->room_bytes = m->devices.room_bytes;
    }
    snprintf(use->name, sizeof use->name, "%s", name);
}

void st_look_placement(struct strata_model *m)
{
    struct strata_placement *p = &m->placement;
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
    const struct st_weights *ws = st_binding_weights(m->binding);
    p->minimum_bytes = p->context_bytes + st_plan_minimum(ws);
    p->fixed_bytes = st_unclaimed_bytes(m, ws);
    p->resident_bytes = p->fixed_bytes + m->plan->resident_bytes;
    p->cache_bytes = m->plan->cache_bytes;
    p->sidecar_bytes = m->sidecar ? st_binding_sidecar_bytes(m->binding) : 0;
    p->ring_bytes = m->plan->total_bytes - m->plan->resident_bytes - m->plan->cache_bytes;
    p->streamed_bytes = m->plan->streamed_bytes;
    p->n_slots = m->plan->shared_slots;
    for (int g = 0; g < ws->n_groups; g++) {
        p->n_slots += m->plan->slots ? m->plan->slots[g] : 0;
        p->n_experts += ws->groups[g].n_expert;
    }
}
