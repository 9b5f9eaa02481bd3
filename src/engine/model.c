/*
 * model.c - loading: catalogue, llama.cpp's part, what is left of the budget, the plan, our part.
 *
 *      look (look.h)
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
#include "engine/look.h"

void strata_model_options_init(struct strata_model_options *options)
{
    *options = (struct strata_model_options){.repack = true,
        .io_method = "auto",
        .lookahead = 1,
        .lookahead_recall = 1,
        .device = "auto",
        .sidecar = "auto"};
}

/* --- llama.cpp's part ---------------------------------------------------------------------- */

static enum strata_status load_llama(struct strata_model *m, struct strata_error *err)
{
    if (st_look_maps(m)) {
        enum strata_status mapped =
            st_guard_load_path(m->catalog->files[0]->path, st_model_params(m), &m->llama, err);
        return m->cancelled ? st_fail(err, STRATA_E_CANCELLED, "", "loading was cancelled")
                            : mapped;
    }
    struct st_vgguf_stats stats = {0};
    struct strata_error io_error = {0};
    FILE *file;
    enum strata_status status = st_vgguf_open(m->catalog, &stats, &io_error, &file, err);
    if (status != STRATA_OK) {
        return status;
    }
    status = st_guard_load(file, st_model_params(m), &m->llama, err);
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
    struct st_budget budget = st_budget_of(m, st_later_bytes(m));
    enum strata_status status =
        st_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
    if (status == STRATA_OK) {
        status = st_binding_start(
            m->binding, m->plan, &io, m->options.progress, m->options.progress_user, err);
    }
    return status;
}

/* --- All of it ----------------------------------------------------------------------------- */

static enum strata_status load(struct strata_model *m, const char *path, struct strata_error *err)
{
    enum strata_status status = st_look(m, path, err);
    if (status != STRATA_OK) {
        return status;
    }
    bool stream = m->plan != NULL;
    st_look_forget(m);
    if (stream) {
        st_look_bind(m, false);
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
    status = st_guard_context(m->llama, st_context_params(m), &m->ctx, err);
    if (status == STRATA_OK && m->binding) {
        st_binding_set_threads(m->binding, m->options.threads);
        st_lookahead =
            (struct st_lookahead_setting){(int)m->options.lookahead, m->options.lookahead_recall};
        status = start_streaming(m, err);
    }
    if (status == STRATA_OK) {
        share_threads(m);
    }
    return status;
}

static bool loaded; /* a model, or on its way: the device serves one at a time */

enum strata_status st_model_new(
    const struct strata_model_options *options, struct strata_model **out, struct strata_error *err)
{
    if (loaded) {
        return st_fail(
            err, STRATA_E_USAGE, "Free the other model first.", "this process has a model already");
    }
    struct strata_model *m = st_xcalloc(1, sizeof *m);
    loaded = true;
    m->options = *options;
    *out = m;
    return STRATA_OK;
}

enum strata_status strata_model_load(const char *path, const struct strata_model_options *options,
    struct strata_model **out, struct strata_error *err)
{
    uint64_t before = st_now_ns();
    struct strata_model *m;
    enum strata_status status = st_model_new(options, &m, err);
    if (status != STRATA_OK) {
        return status;
    }
    status = load(m, path, err);
    if (status != STRATA_OK) {
        strata_model_free(m);
        return status;
    }
    st_look_placement(m);
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
    st_history_free(m->history);
    st_curves_free(m->curves);
    st_devices_release(&m->devices);
    st_sidecar_close(m->sidecar);
    st_catalog_free(m->catalog);
    free(m);
    loaded = false;
}

void strata_model_placement(const struct strata_model *m, struct strata_placement *out)
{
    *out = m->placement;
}
