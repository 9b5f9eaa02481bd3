/*
 * model.c - loading: catalogue, llama.cpp's part, what is left of the budget, the plan, our part.
 *
 *      catalogue ---> fits, and would if memory got short? ---> plain llama.cpp, nothing in the way
 *          |
 *          v no
 *      llama.cpp loads what we do not claim; makes the context (KV cache and compute buffers)
 *          |        so what is left of the budget is known, not estimated
 *          v
 *      plan ---> stream: kept weights read, slots and ring taken
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/guard.h"
#include "engine/libs.h"
#include "hw/disk.h"
#include "model/meta.h"
#include "os/memory.h"

#define SLACK_BYTES   (64 * ST_MIB)
#define PROBE_SECONDS 0.2
#define BATCH_DEFAULT 512
#define CTX_DEFAULT   4096

void strata_model_options_init(struct strata_model_options *options)
{
    *options = (struct strata_model_options){.repack = true, .io_method = "auto"};
}

/* --- Budget -------------------------------------------------------------------------------- */

/* Plain llama.cpp in all: it loads one tensor at a time through a buffer. */
static uint64_t plain_bytes(const struct strata_model *m)
{
    uint64_t largest = 0;
    for (int i = 0; i < m->catalog->n_tensors; i++) {
        largest = st_max(largest, m->catalog->tensors[i].bytes);
    }
    return m->catalog->tensor_bytes + largest + m->needs.kv_bytes + m->needs.compute_bytes +
           SLACK_BYTES + st_memory_rss();
}

/* Whether plain llama.cpp may hold it all. A budget is a ceiling: it does not make memory. And what
 * llama.cpp holds cannot be given back: in a container, whose limit may be lowered at any time, it
 * must still fit when nearly half of it is gone. */
static bool fits(const struct strata_model *m)
{
    struct st_memory_state state;
    st_memory_state(&state);
    uint64_t reserve = st_memory_reserve(&state);
    uint64_t room = st_memory_headroom(&state) + st_memory_rss();
    room = st_min(room - st_min(room, reserve + reserve / 2), m->placement.budget_bytes);
    if (state.limit_bytes != UINT64_MAX) {
        room = st_min(room, state.limit_bytes / 20 * 11);
    }
    return m->options.weights_mem_bytes == 0 && plain_bytes(m) <= room;
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

static struct st_budget budget_of(const struct strata_model *m, uint64_t pending_bytes)
{
    return (struct st_budget){m->placement.budget_bytes, m->options.weights_mem_bytes,
        pending_bytes, m->options.ctx, m->options.batch};
}

/* --- llama.cpp's part ---------------------------------------------------------------------- */

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

static struct llama_model_params model_params(struct strata_model *m)
{
    static ggml_backend_dev_t no_devices[] = {NULL};
    struct llama_model_params params = llama_model_default_params();
    params.devices = no_devices;
    params.n_gpu_layers = 0;
    params.load_mode = LLAMA_LOAD_MODE_NONE;
    params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    params.use_extra_bufts = m->options.repack;
    params.progress_callback = report;
    params.progress_callback_user_data = m;
    return params;
}

static enum strata_status load_llama(struct strata_model *m, struct strata_error *err)
{
    struct st_vgguf_stats stats = {0};
    struct strata_error io_error = {0};
    FILE *file;
    enum strata_status status = st_vgguf_open(m->catalog, &stats, &io_error, &file, err);
    if (status != STRATA_OK) {
        return status;
    }
    status = st_guard_load(file, model_params(m), &m->llama, err);
    fclose(file);
    m->load_read_bytes = stats.read_bytes;
    if (m->cancelled) {
        return st_fail(err, STRATA_E_CANCELLED, "", "loading was cancelled");
    }
    if (status != STRATA_OK && io_error.status != STRATA_OK) {
        if (err) {
            *err = io_error; /* names the file and the place, which llama.cpp cannot */
        }
        return io_error.status;
    }
    return status;
}

static struct llama_context_params context_params(const struct strata_model *m)
{
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = m->options.ctx;
    params.n_batch = m->options.batch;
    params.n_ubatch = m->options.batch;
    params.n_seq_max = 1;
    params.n_threads = m->options.threads;
    params.n_threads_batch = m->options.threads;
    params.no_perf = true;
    if (m->binding) {
        /* What "auto" comes to on the CPU. With auto, llama.cpp would switch it off because the
         * attention is computed on our device and the layer is counted as the CPU's. */
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    return params;
}

/* One pool for llama.cpp's CPU backend and ours: two would spin against each other. */
static void share_threads(struct strata_model *m)
{
    ggml_threadpool_t pool = NULL;
    if (m->binding) {
        pool = st_binding_threadpool(m->binding);
    } else {
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        ggml_threadpool_t (*make)(struct ggml_threadpool_params *) =
            (ggml_threadpool_t(*)(struct ggml_threadpool_params *))
                ggml_backend_reg_get_proc_address(
                    ggml_backend_dev_backend_reg(cpu), "ggml_threadpool_new");
        struct ggml_threadpool_params params = ggml_threadpool_params_default(m->options.threads);
        m->pool = pool = make ? make(&params) : NULL;
    }
    if (pool) {
        llama_attach_threadpool(m->ctx, pool, pool);
    }
}

static void free_threads(struct strata_model *m)
{
    if (m->pool) {
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        void (*release)(ggml_threadpool_t) =
            (void (*)(ggml_threadpool_t))ggml_backend_reg_get_proc_address(
                ggml_backend_dev_backend_reg(cpu), "ggml_threadpool_free");
        release(m->pool);
    }
}

/* --- Our part ------------------------------------------------------------------------------ */

static enum strata_status start_streaming(struct strata_model *m, struct strata_error *err)
{
    struct st_io_options io;
    st_io_options_init(&io);
    io.method = m->options.io_method;
    struct st_budget budget = budget_of(m, 0);
    enum strata_status status =
        st_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
    if (status == STRATA_OK) {
        m->placement.minimum_bytes =
            m->placement.context_bytes + st_plan_minimum(st_binding_weights(m->binding));
        status = st_binding_start(
            m->binding, m->plan, &io, m->options.progress, m->options.progress_user, err);
    }
    if (status == STRATA_OK && !m->plan->everything_fits) {
        m->disk_bytes_per_s =
            st_disk_bandwidth(m->catalog->files, m->catalog->n_files, &io, PROBE_SECONDS);
    }
    return status;
}

/* Weights that llama.cpp keeps itself. */
static uint64_t unclaimed_bytes(const struct strata_model *m, const struct st_weights *ws)
{
    uint64_t bytes = m->catalog->tensor_bytes;
    for (int i = 0; i < ws->n_weights; i++) {
        bytes -= m->catalog->tensors[ws->weights[i].tensor].bytes;
    }
    return bytes;
}

static void describe_placement(struct strata_model *m)
{
    struct strata_placement *p = &m->placement;
    p->weights_bytes = m->catalog->tensor_bytes;
    p->fits = !m->binding;
    p->resident_bytes = p->weights_bytes;
    if (!m->binding) {
        return;
    }
    const struct st_weights *ws = st_binding_weights(m->binding);
    p->resident_bytes = unclaimed_bytes(m, ws);
    p->resident_bytes += m->plan->resident_bytes;
    p->cache_bytes = m->plan->cache_bytes;
    p->ring_bytes = m->plan->ring_bytes;
    p->streamed_bytes = m->plan->streamed_bytes;
    p->n_slots = m->plan->shared_slots;
    for (int g = 0; g < ws->n_groups; g++) {
        p->n_slots += m->plan->slots ? m->plan->slots[g] : 0;
        p->n_experts += ws->groups[g].n_expert;
    }
}

/* --- All of it ----------------------------------------------------------------------------- */

static enum strata_status fill_defaults(struct strata_model *m, struct strata_error *err)
{
    struct strata_model_options *o = &m->options;
    if (o->threads == 0) {
        o->threads = st_cpu_count();
    }
    if (o->threads < 1 || o->threads > GGML_MAX_N_THREADS) {
        return st_fail(
            err, STRATA_E_USAGE, "", "%d threads: must be 1 to %d", o->threads, GGML_MAX_N_THREADS);
    }
    o->batch = o->batch ? o->batch : BATCH_DEFAULT;
    o->io_method = o->io_method ? o->io_method : "auto";
    enum strata_status status = st_io_check_method(o->io_method, err);
    if (status != STRATA_OK) {
        return status;
    }
    m->placement.budget_bytes = o->mem_bytes ? o->mem_bytes : st_memory_default_budget();
    return STRATA_OK;
}

static void choose_ctx(struct strata_model *m)
{
    uint64_t trained = st_meta_arch_uint(m->catalog->meta, m->catalog->arch, "context_length", 0);
    uint64_t usual = trained > 0 ? st_min(trained, CTX_DEFAULT) : CTX_DEFAULT;
    m->options.ctx = m->options.ctx ? m->options.ctx : (uint32_t)usual;
    m->options.batch = (uint32_t)st_min(m->options.batch, m->options.ctx);
}

/* Lets llama.cpp go through loading without memory, and plans with what it says it would take: a
 * budget that is too small is refused before a byte of weights is read. */
static enum strata_status measure(
    struct strata_model *m, const char *path, struct strata_error *err)
{
    st_device_register();
    m->binding = st_binding_new(m->catalog, m->options.repack, true);
    enum strata_status status =
        st_guard_measure(path, model_params(m), context_params(m), &m->needs, err);
    if (status != STRATA_OK || m->options.plain || fits(m)) {
        return status;
    }
    const struct st_weights *ws = st_binding_weights(m->binding);
    struct st_budget budget =
        budget_of(m, unclaimed_bytes(m, ws) + m->needs.kv_bytes + m->needs.compute_bytes);
    return st_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
}

/* What must be known before a byte of weights is read. */
static enum strata_status look_at(
    struct strata_model *m, const char *path, struct strata_error *err)
{
    enum strata_status status = st_libs_load(err);
    if (status == STRATA_OK) {
        status = fill_defaults(m, err);
    }
    if (status == STRATA_OK) {
        status = st_catalog_open(path, true, &m->catalog, err);
    }
    if (status == STRATA_OK) {
        status = st_catalog_check_runnable(m->catalog, err);
    }
    if (status == STRATA_OK) {
        choose_ctx(m);
        status = measure(m, path, err);
    }
    if (status == STRATA_OK && m->options.plain) {
        status = check_plain(m, err);
    }
    return status;
}

static void forget_measuring(struct strata_model *m)
{
    st_binding_free(m->binding);
    st_plan_free(m->plan);
    m->binding = NULL;
    m->plan = NULL;
}

static enum strata_status load(struct strata_model *m, const char *path, struct strata_error *err)
{
    enum strata_status status = look_at(m, path, err);
    if (status != STRATA_OK) {
        return status;
    }
    bool stream = m->plan != NULL;
    forget_measuring(m);
    if (stream) {
        m->binding = st_binding_new(m->catalog, m->options.repack, false);
    }
    status = load_llama(m, err);
    if (status != STRATA_OK) {
        return status;
    }
    if (!llama_model_has_decoder(m->llama) || llama_model_has_encoder(m->llama)) {
        return st_fail(err, STRATA_E_UNSUPPORTED, "Strata runs decoder-only language models.",
            "%s: models of architecture '%s' do not generate text", path, m->catalog->arch);
    }
    m->vocab = llama_model_get_vocab(m->llama);
    if (m->binding) {
        st_binding_weights(m->binding);
    }
    status = st_guard_context(m->llama, context_params(m), &m->ctx, err);
    if (status == STRATA_OK && m->binding) {
        st_binding_set_threads(m->binding, m->options.threads);
        status = start_streaming(m, err);
    }
    if (status == STRATA_OK) {
        share_threads(m);
    }
    return status;
}

static bool loaded; /* a model, or on its way: the device serves one at a time */

enum strata_status strata_model_load(const char *path, const struct strata_model_options *options,
    struct strata_model **out, struct strata_error *err)
{
    if (loaded) {
        return st_fail(
            err, STRATA_E_USAGE, "Free the other model first.", "this process has a model already");
    }
    uint64_t before = st_now_ns();
    struct strata_model *m = st_xcalloc(1, sizeof *m);
    loaded = true;
    m->options = *options;
    enum strata_status status = load(m, path, err);
    if (status != STRATA_OK) {
        strata_model_free(m);
        return status;
    }
    describe_placement(m);
    m->load_s = (double)(st_now_ns() - before) * 1e-9;
    if (m->binding) {
        st_stream_stats(st_binding_stream(m->binding), &m->loaded);
        m->load_read_bytes += m->loaded.io.read_bytes;
    }
    *out = m;
    return STRATA_OK;
}

void strata_model_free(struct strata_model *m)
{
    if (!m) {
        return;
    }
    ST_ASSERT(!m->in_session);
    if (m->ctx) {
        llama_free(m->ctx);
    }
    if (m->llama) {
        llama_model_free(m->llama);
    }
    free_threads(m);
    st_binding_free(m->binding);
    st_plan_free(m->plan);
    st_catalog_free(m->catalog);
    free(m);
    loaded = false;
}

uint64_t st_model_read_bytes(const struct strata_model *m)
{
    if (!m->binding) {
        return 0;
    }
    struct st_stream_stats stats;
    st_stream_stats(st_binding_stream(m->binding), &stats);
    return stats.io.read_bytes;
}

void strata_model_placement(const struct strata_model *m, struct strata_placement *out)
{
    *out = m->placement;
}
