/*
 * model.c - loading: preflight, llama.cpp's part, the final plan, our part.
 *
 *      preflight (preflight.h)
 *          |
 *          v
 *      llama.cpp loads the weights that we do not claim and makes the context (KV cache and compute
 *          |        buffers), so that what is left of the budget is known, not estimated
 *          v
 *      plan ---> stream: resident weights read, memory for slots and ring allocated
 *
 * A model that fits is loaded the same way: read with many reads in flight and put on huge pages it
 * loads and runs faster than with llama.cpp alone (bench/LOG.md), and some of its memory can be
 * given back when the machine runs short.
 */
#include "engine/model.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/describe.h"
#include "engine/llama_params.h"
#include "engine/model_options.h"
#include "gpu/gpu.h"
#include "model/vgguf.h"

/* --- llama.cpp's part ---------------------------------------------------------------------- */

/* A llama_progress_callback; false stops the load. */
static bool report(float fraction, void *user)
{
    struct forebay_model *m = user;
    const struct forebay_model_options *o = fb_model_options(m);
    if (!o->progress) {
        return true;
    }
    m->cancelled = !o->progress(m->binding ? "loading small tensors" : "loading weights",
        (uint64_t)((double)fraction * 1e6), 1000000, o->progress_user);
    return !m->cancelled;
}

/* Through the virtual GGUF, which hides the claimed weights. Its own errors name the file and the
 * offset, which llama.cpp's cannot. */
static enum forebay_status load_virtual(
    struct forebay_model *m, const struct llama_model_params *params, struct forebay_error *err)
{
    struct fb_vgguf_stats stats = {0};
    struct forebay_error io_error = {0};
    FILE *file;
    enum forebay_status status =
        fb_vgguf_open(m->preflight->catalog, &stats, &io_error, &file, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    status = fb_guard_load(file, *params, &m->llama, err);
    fclose(file);
    m->load_read_bytes = stats.read_bytes;
    if (!m->cancelled && status != FOREBAY_OK && io_error.status != FOREBAY_OK) {
        if (err) {
            *err = io_error;
        }
        return io_error.status;
    }
    return status;
}

static enum forebay_status load_llama(struct forebay_model *m, struct forebay_error *err)
{
    struct fb_preflight *p = m->preflight;
    fb_llama_overrides_init(&p->overrides, &p->options, p->catalog);
    struct llama_model_params params = fb_llama_model_params(&p->options, p->catalog, &p->devices,
        &p->overrides, p->options.plain ? FB_TO_COMPARE : FB_TO_COMPUTE);
    params.progress_callback = report;
    params.progress_callback_user_data = m;
    enum forebay_status status =
        fb_options_map_file(&p->options)
            ? fb_guard_load_path(p->catalog->files[0]->path, params, &m->llama, err)
            : load_virtual(m, &params, err);
    return m->cancelled ? fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled") : status;
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
        struct ggml_threadpool_params params =
            ggml_threadpool_params_default(fb_model_options(m)->threads);
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
    const struct forebay_model_options *o = fb_model_options(m);
    struct fb_io_options io;
    fb_io_options_init(&io);
    io.method = o->io_method;
    fb_binding_set_threads(m->binding, o->threads);
    fb_binding_set_lookahead(m->binding, (int)o->lookahead, o->lookahead_recall);
    struct fb_budget budget =
        fb_preflight_budget(m->preflight, fb_preflight_later_bytes(m->preflight), 0);
    enum forebay_status status =
        fb_binding_plan(m->binding, &budget, &m->plan, &m->placement.context_bytes, err);
    if (status == FOREBAY_OK) {
        status = fb_binding_start(m->binding, m->plan, &io, o->progress, o->progress_user, err);
    }
    if (status == FOREBAY_OK && m->preflight->devices.plan.n_slotted > 0) {
        status =
            fb_gpu_start(m->binding, m->preflight->devices.plan.slots_bytes, &m->gpu_slots, err);
    }
    return status;
}

/* --- All of it ----------------------------------------------------------------------------- */

static enum forebay_status load(
    struct forebay_model *m, const char *path, struct forebay_error *err)
{
    struct fb_preflight *p = m->preflight;
    fb_preflight_end_measuring(p);
    if (p->plan) {
        m->binding = fb_preflight_bind(p);
    }
    enum forebay_status status = load_llama(m, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (!llama_model_has_decoder(m->llama) || llama_model_has_encoder(m->llama)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Forebay runs decoder-only language models.",
            "%s: models of architecture '%s' do not generate text", path, p->catalog->arch);
    }
    m->vocab = llama_model_get_vocab(m->llama);
    if (m->binding) {
        fb_binding_weights(m->binding); /* shows llama.cpp the shapes of the claimed tensors */
    }
    struct llama_context_params params =
        fb_llama_context_params(&p->options, &p->devices, &p->overrides, m->binding != NULL);
    status = fb_guard_context(m->llama, params, &m->ctx, err);
    if (status == FOREBAY_OK && m->binding) {
        status = start_streaming(m, err);
    }
    if (status == FOREBAY_OK) {
        share_threads(m);
        m->tokenizer = fb_tokenizer_new(m->vocab, p->options.ctx);
    }
    return status;
}

enum forebay_status forebay_model_load(const char *path,
    const struct forebay_model_options *options, struct forebay_model **out,
    struct forebay_error *err)
{
    uint64_t before = fb_now_ns();
    struct fb_preflight *preflight;
    enum forebay_status status = fb_preflight_new(path, options, &preflight, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct forebay_model *m = fb_xcalloc(1, sizeof *m);
    m->preflight = preflight;
    status = load(m, path, err);
    if (status != FOREBAY_OK) {
        forebay_model_free(m);
        return status;
    }
    m->placement =
        fb_describe_placement(preflight, m->binding, m->plan, m->placement.context_bytes);
    for (int d = 0; d < m->placement.n_devices && m->gpu_slots; d++) {
        struct forebay_device_use *use = &m->placement.devices[d];
        use->n_slots = use->n_slotted > 0 ? fb_gpu_slots_total(m->gpu_slots) : 0;
    }
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
    fb_tokenizer_free(m->tokenizer);
    if (m->ctx) {
        llama_free(m->ctx);
    }
    if (m->llama) {
        llama_model_free(m->llama);
    }
    free_threads(m);
    fb_gpu_stop(m->gpu_slots);
    fb_binding_free(m->binding);
    fb_plan_free(m->plan);
    fb_preflight_free(m->preflight);
    free(m);
}

/* --- What it is ---------------------------------------------------------------------------- */

void forebay_model_placement(const struct forebay_model *m, struct forebay_placement *out)
{
    *out = m->placement;
}

void forebay_model_speed(const struct forebay_model *m, struct forebay_speed *out)
{
    const struct fb_preflight *p = m->preflight;
    *out = fb_describe_speed(p, &p->speed, p->disk.bytes_per_s);
}

int forebay_model_n_vocab(const struct forebay_model *m)
{
    return llama_vocab_n_tokens(m->vocab);
}

uint32_t forebay_model_ctx(const struct forebay_model *m)
{
    return fb_model_options(m)->ctx;
}

uint32_t forebay_model_ctx_train(const struct forebay_model *m)
{
    return (uint32_t)llama_model_n_ctx_train(m->llama);
}

uint32_t forebay_model_batch(const struct forebay_model *m)
{
    return fb_model_options(m)->batch;
}

uint32_t forebay_model_sequences(const struct forebay_model *m)
{
    return fb_options_sequences(fb_model_options(m));
}

enum forebay_status fb_model_check_usable(const struct forebay_model *m, struct forebay_error *err)
{
    return m->broken ? fb_fail(err, FOREBAY_E_LLAMA, "Load the model again.",
                           "an earlier failure inside llama.cpp left the model in an unknown state")
                     : FOREBAY_OK;
}

enum forebay_status fb_model_check_token(
    const struct forebay_model *m, int32_t token, struct forebay_error *err)
{
    int n = llama_vocab_n_tokens(m->vocab);
    return token < 0 || token >= n ? fb_fail(err, FOREBAY_E_USAGE, "",
                                         "token %d is not in the vocabulary of %d", token, n)
                                   : FOREBAY_OK;
}
