/*
 * model.c - loading: catalogue, llama.cpp's part, what is left of the budget, the plan, our part.
 *
 *      look (preflight.h)
 *          |
 *          v
 *      llama.cpp loads what we do not claim; makes the context (KV cache and compute buffers)
 *          |        so what is left of the budget is known, not estimated
 *          v
 *      plan ---> stream: kept weights read, slots and ring taken
 *
 * A model that fits takes the same way: read by many at once and put on huge pages it loads and runs
 * faster than llama.cpp would alone (bench/LOG.md), and if memory gets short some of it can go.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/preflight.h"

void forebay_model_options_init(struct forebay_model_options *options)
{
    *options = (struct forebay_model_options){.repack = true,
        .io_method = "auto",
        .lookahead = 1,
        .lookahead_recall = 1,
        .device = "auto",
        .sidecar = "auto"};
}

/* --- llama.cpp's part ---------------------------------------------------------------------- */

static enum forebay_status load_llama(struct forebay_model *m, struct forebay_error *err)
{
    if (fb_preflight_maps(m)) {
        enum forebay_status mapped =
            fb_guard_load_path(m->catalog->files[0]->path, fb_model_params(m), &m->llama, err);
        return m->cancelled ? fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled")
                            : mapped;
    }
    struct fb_vgguf_stats stats = {0};
    struct forebay_error io_error = {0};
    FILE *file;
    enum forebay_status status = fb_vgguf_open(m->catalog, &stats, &io_error, &file, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    status = fb_guard_load(file, fb_model_params(m), &m->llama, err);
    fclose(file);
    m->load_read_bytes = stats.read_bytes;
    if (m->cancelled) {
        return fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
    }
    if (status != FOREBAY_OK && io_error.status != FOREBAY_OK) {
        if (err) {
            *err = io_error; /* names the file and the place, which llama.cpp cannot */
        }
        return io_error.status;
    }
    return status;
}

/* One pool for llama.cpp's CPU backend and ours: two would spin against each other. */
static void share_threads(struct forebay_model *m)
{
    ggml_threadpool_t pool = NULL;
    if (m->binding) {
        pool = fb_binding_threadpool(m->binding);
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

static void free_threads(struct forebay_model *m)
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

static enum forebay_status start_streaming(struct forebay_model *m, struct forebay_error *err)
{
    struct fb_io_options io;
    fb_io_options_init(&io);
    io.method = m->options.io_method;
    struct fb_budget budget = fb_budget_of(m, fb_later_bytes(m));
    enum forebay_status status =
        fb_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
    if (status == FOREBAY_OK) {
        status = fb_binding_start(
            m->binding, m->plan, &io, m->options.progress, m->options.progress_user, err);
    }
    return status;
}

/* --- All of it ----------------------------------------------------------------------------- */

static enum forebay_status load(
    struct forebay_model *m, const char *path, struct forebay_error *err)
{
    enum forebay_status status = fb_preflight(m, path, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    bool stream = m->plan != NULL;
    fb_preflight_forget(m);
    if (stream) {
        fb_preflight_bind(m, false);
    }
    status = load_llama(m, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (!llama_model_has_decoder(m->llama) || llama_model_has_encoder(m->llama)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Forebay runs decoder-only language models.",
            "%s: models of architecture '%s' do not generate text", path, m->catalog->arch);
    }
    m->vocab = llama_model_get_vocab(m->llama);
    if (m->binding) {
        fb_binding_weights(m->binding);
    }
    status = fb_guard_context(m->llama, fb_context_params(m), &m->ctx, err);
    if (status == FOREBAY_OK && m->binding) {
        fb_binding_set_threads(m->binding, m->options.threads);
        fb_binding_set_lookahead(
            m->binding, (int)m->options.lookahead, m->options.lookahead_recall);
        status = start_streaming(m, err);
    }
    if (status == FOREBAY_OK) {
        share_threads(m);
    }
    return status;
}

static bool loaded; /* a model, or on its way: the device serves one at a time */

enum forebay_status fb_model_new(const struct forebay_model_options *options,
    struct forebay_model **out, struct forebay_error *err)
{
    if (loaded) {
        return fb_fail(err, FOREBAY_E_USAGE, "Free the other model first.",
            "this process has a model already");
    }
    struct forebay_model *m = fb_xcalloc(1, sizeof *m);
    loaded = true;
    m->options = *options;
    *out = m;
    return FOREBAY_OK;
}

enum forebay_status forebay_model_load(const char *path,
    const struct forebay_model_options *options, struct forebay_model **out,
    struct forebay_error *err)
{
    uint64_t before = fb_now_ns();
    struct forebay_model *m;
    enum forebay_status status = fb_model_new(options, &m, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    status = load(m, path, err);
    if (status != FOREBAY_OK) {
        forebay_model_free(m);
        return status;
    }
    fb_preflight_placement(m);
    m->load_s = (double)(fb_now_ns() - before) * 1e-9;
    if (m->binding) {
        fb_stream_stats(fb_binding_stream(m->binding), &m->loaded);
        m->load_read_bytes += m->loaded.io.read_bytes;
    }
    *out = m;
    return FOREBAY_OK;
}

void forebay_model_free(struct forebay_model *m)
{
    if (!m) {
        return;
    }
    FB_ASSERT(!m->in_session);
    if (m->ctx) {
        llama_free(m->ctx);
    }
    if (m->llama) {
        llama_model_free(m->llama);
    }
    free_threads(m);
    fb_binding_free(m->binding);
    fb_plan_free(m->plan);
    fb_history_free(m->history);
    fb_curves_free(m->curves);
    fb_devices_release(&m->devices);
    fb_sidecar_close(m->sidecar);
    fb_catalog_free(m->catalog);
    free(m);
    loaded = false;
}

void forebay_model_placement(const struct forebay_model *m, struct forebay_placement *out)
{
    *out = m->placement;
}
