/*
 * session.c - a session: evaluating tokens, accounting for them, routing traces, sampling.
 *
 *      forebay_eval      one call, any number of tokens of the first sequence: one prompt or decode
 *        eval_pass       at most a batch of them: one llama_decode. It succeeds as a whole, or its
 *                        tokens are removed from the KV cache again
 *      note_route        called by the device during a pass, for each row of each group
 *
 * forebay_decode (sequences.c) is the same for several sequences.
 */
#include "engine/session.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/machine.h"

/* --- Life ---------------------------------------------------------------------------------- */

/* An fb_route_fn: the experts of a row, for the trace and for the plans of later runs. */
static void note_route(void *user, int group, const int *experts, int n)
{
    struct forebay_session *s = user;
    fb_recorder_note(s->recorder, group, experts, n);
    fb_history_note(s->model->preflight->history, group, experts, n);
}

enum forebay_status forebay_session_new(
    struct forebay_model *model, struct forebay_session **out, struct forebay_error *err)
{
    if (model->in_session) {
        return fb_fail(err, FOREBAY_E_USAGE, "Free the other session first.",
            "the model already has a session");
    }
    struct forebay_session *s = fb_xcalloc(1, sizeof *s);
    s->model = model;
    s->past = fb_xcalloc(forebay_model_sequences(model), sizeof *s->past);
    model->in_session = true;
    llama_memory_clear(llama_get_memory(model->ctx), true);
    if (model->binding) {
        fb_binding_observe(model->binding, note_route, s);
    }
    *out = s;
    return FOREBAY_OK;
}

/* Seconds that computing with weights took for the tokens decoded alone: without attention and the
 * processor time of prefetching, which estimates add separately. */
static double weights_s(const struct forebay_session *s)
{
    const struct fb_preflight *p = s->model->preflight;
    double all = (double)s->alone_compute_ns * 1e-9;
    uint64_t demand =
        s->alone_expert_bytes - fb_min(s->alone_expert_bytes, s->alone_lookahead_bytes);
    uint64_t prefetched = s->alone_read_bytes - fb_min(s->alone_read_bytes, demand);
    double extra = fb_preflight_attention_s(p, (double)s->alone_past, false) +
                   (double)prefetched * p->disk.cpu_s;
    return fmax(all - extra, all / 2);
}

/* Speeds seen while other programs used the processors say nothing about the model. */
static void save_history(const struct forebay_session *s)
{
    const struct forebay_model_options *o = fb_model_options(s->model);
    struct fb_history *history = s->model->preflight->history;
    if (history) {
        fb_history_note_lookahead(history, s->alone_lookahead_bytes, s->alone_expert_bytes);
        bool busy = fb_binding_others(s->model->binding) > FB_BUSY_CORES;
        fb_history_save(history, o->threads, o->repack,
            (struct fb_computed){s->alone_tokens, busy ? 0 : weights_s(s)},
            (struct fb_computed){s->prompt_tokens, (double)s->prompt_compute_ns * 1e-9});
    }
}

void forebay_session_free(struct forebay_session *s)
{
    if (s) {
        fb_recorder_close(s->recorder, NULL);
        if (s->model->binding) {
            fb_binding_observe(s->model->binding, NULL, NULL);
        }
        save_history(s);
        forebay_sampler_free(s->sampler);
        s->model->in_session = false;
        free(s->past);
        free(s);
    }
}

uint32_t forebay_session_n_past(const struct forebay_session *s)
{
    return s->past[0];
}

/* --- Evaluating ---------------------------------------------------------------------------- */

static enum forebay_status check_eval(const struct forebay_session *s, const int32_t *tokens,
    size_t n, bool all_logits, struct forebay_error *err)
{
    const struct forebay_model_options *o = fb_model_options(s->model);
    enum forebay_status status = fb_model_check_usable(s->model, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (s->broken) {
        return fb_fail(err, FOREBAY_E_IO, "Start a new session.",
            "an earlier failure left this session without the tokens before it");
    }
    if (n == 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "no tokens to evaluate");
    }
    if (s->past[0] + n > o->ctx) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a larger --ctx.",
            "%zu more tokens do not fit into a context of %u (%u in use)", n, o->ctx, s->past[0]);
    }
    if (all_logits && !o->all_logits) {
        return fb_fail(
            err, FOREBAY_E_USAGE, "", "the model was not loaded for logits of all tokens");
    }
    if (all_logits && n > o->batch) {
        return fb_fail(err, FOREBAY_E_USAGE, "Evaluate at most a batch at a time.",
            "logits of %zu tokens in one call: the batch is %u", n, o->batch);
    }
    for (size_t i = 0; i < n && status == FOREBAY_OK; i++) {
        status = fb_model_check_token(s->model, tokens[i], err);
    }
    return status;
}

/* Removes the cells of a failed pass from the KV cache. */
static void remove_pass(struct forebay_session *s)
{
    llama_memory_t memory = llama_get_memory(s->model->ctx);
    if (!llama_memory_seq_rm(memory, 0, (llama_pos)s->past[0], -1)) {
        s->broken = true; /* recurrent state cannot be cut */
    }
}

uint32_t forebay_session_keep(struct forebay_session *s, uint32_t n)
{
    if (n >= s->past[0] && !s->broken) {
        return s->past[0];
    }
    llama_memory_t memory = llama_get_memory(s->model->ctx);
    if (n == 0 || s->broken || n < forebay_seq_shortest(s, 0) ||
        !llama_memory_seq_rm(memory, 0, (llama_pos)n, -1)) {
        llama_memory_clear(memory, true);
        n = 0;
        s->broken = false; /* the state is empty, and so consistent */
    }
    s->past[0] = n;
    s->n_rows = 0;
    return n;
}

/* llama.cpp's own CPU backend computes some small nodes, with as many threads as the device. */
static void share_processors(struct forebay_model *m)
{
    int n_threads;
    void *threadpool;
    if (m->binding && fb_binding_share_processors(m->binding, &n_threads, &threadpool)) {
        llama_set_n_threads(m->ctx, n_threads, n_threads);
        llama_attach_threadpool(m->ctx, threadpool, threadpool);
    }
}

enum forebay_status fb_session_decode(
    struct forebay_session *s, struct llama_batch batch, int *code, struct forebay_error *err)
{
    struct forebay_model *m = s->model;
    *code = 0;
    share_processors(m);
    if (m->binding) {
        fb_binding_pass(m->binding, (uint32_t)batch.n_tokens);
    }
    enum forebay_status status = fb_guard_decode(m->ctx, batch, code, err);
    m->broken = status != FOREBAY_OK && *code == 0; /* it threw */
    if (status != FOREBAY_OK && m->binding) {
        enum forebay_status cause = fb_binding_take_error(m->binding, err);
        status = cause != FOREBAY_OK ? cause : status;
    }
    if (status == FOREBAY_OK && m->binding) { /* the files read must not have changed (E3) */
        const struct fb_preflight *p = m->preflight;
        status = fb_catalog_check_files(p->catalog, err);
        if (status == FOREBAY_OK && p->sidecar) {
            status = fb_file_check(fb_sidecar_file(p->sidecar), err);
        }
    }
    return status;
}

static enum forebay_status eval_pass(struct forebay_session *s, const int32_t *tokens, size_t n,
    bool all_logits, bool last, struct forebay_error *err)
{
    struct forebay_model *m = s->model;
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    for (size_t i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = (llama_pos)(s->past[0] + i);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = all_logits || (last && i == n - 1);
    }
    batch.n_tokens = (int32_t)n;
    int code;
    enum forebay_status status = fb_session_decode(s, batch, &code, err);
    llama_batch_free(batch);
    if (status != FOREBAY_OK) {
        if (!m->broken) {
            remove_pass(s);
        }
        return status;
    }
    s->past[0] += (uint32_t)n;
    return FOREBAY_OK;
}

/* --- Accounting ---------------------------------------------------------------------------- */

static struct fb_moment moment(const struct forebay_session *s)
{
    const struct forebay_model *m = s->model;
    struct fb_stream_stats stats = {0};
    if (m->binding) {
        fb_stream_stats(fb_binding_stream(m->binding), &stats);
    }
    return (struct fb_moment){fb_now_ns(), stats.io.read_bytes, stats.stall_ns + stats.unpack_ns,
        stats.expert_bytes, stats.lookahead_bytes};
}

struct fb_moment fb_session_begin(struct forebay_session *s, bool prompt)
{
    struct fb_history *history = s->model->preflight->history;
    struct fb_moment begin = moment(s);
    s->start_ns = s->start_ns ? s->start_ns : begin.ns;
    if (history) {
        fb_history_count(history, !prompt);
    }
    return begin;
}

void fb_session_end(
    struct forebay_session *s, size_t n, uint32_t past, bool prompt, struct fb_moment begin)
{
    struct fb_moment end = moment(s);
    uint64_t ns = end.ns - begin.ns, waited = end.waited_ns - begin.waited_ns;
    if (prompt) {
        s->prompt_tokens += n;
        s->prompt_ns += ns;
        s->prompt_compute_ns += ns - fb_min(ns, waited);
        return;
    }
    s->decode_tokens += n;
    s->decode_ns += ns;
    s->decode_read_bytes += end.read_bytes - begin.read_bytes;
    if (n == 1) {
        s->alone_tokens++;
        s->alone_compute_ns += ns - fb_min(ns, waited);
        s->alone_past += past;
        s->alone_read_bytes += end.read_bytes - begin.read_bytes;
        s->alone_expert_bytes += end.expert_bytes - begin.expert_bytes;
        s->alone_lookahead_bytes += end.lookahead_bytes - begin.lookahead_bytes;
    }
}

void fb_session_sampled(struct forebay_session *s)
{
    if (s->generated_tokens++ == 0) {
        s->first_token_ns = fb_now_ns() - s->start_ns;
    }
}

/* --- forebay_eval -------------------------------------------------------------------------- */

enum forebay_status forebay_eval(struct forebay_session *s, const int32_t *tokens, size_t n,
    bool all_logits, struct forebay_error *err)
{
    enum forebay_status status = check_eval(s, tokens, n, all_logits, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    bool prompt = s->prompt_tokens == 0 || n > 1; /* a session begins with its prompt */
    struct fb_moment begin = fb_session_begin(s, prompt);
    s->n_rows = 0;
    for (size_t done = 0; done < n;) {
        size_t count = fb_min(n - done, fb_model_options(s->model)->batch);
        fb_recorder_begin(s->recorder);
        status = eval_pass(s, tokens + done, count, all_logits, done + count == n, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        fb_recorder_write(s->recorder, tokens + done, count, prompt);
        done += count;
    }
    s->n_rows = all_logits ? n : 1;
    s->all_rows = all_logits;
    fb_session_end(s, n, s->past[0] - (uint32_t)n, prompt, begin);
    return FOREBAY_OK;
}

int32_t fb_session_row(const struct forebay_session *s, size_t i)
{
    FB_ASSERT(i < s->n_rows);
    return s->all_rows ? (int32_t)i : -1;
}

const float *forebay_logits(struct forebay_session *s, size_t i)
{
    return llama_get_logits_ith(s->model->ctx, fb_session_row(s, i));
}

/* --- Routing traces ------------------------------------------------------------------------ */

enum forebay_status forebay_trace_start(
    struct forebay_session *s, const char *path, struct forebay_error *err)
{
    const struct forebay_model *m = s->model;
    if (s->recorder) {
        return fb_fail(err, FOREBAY_E_USAGE, "Stop the other trace first.",
            "the session is already recording a trace");
    }
    if (m->preflight->catalog->n_expert == 0) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Only mixture-of-experts models have routes.",
            "no trace to record: the model has no experts");
    }
    if (!m->binding || fb_binding_weights(m->binding)->n_groups == 0) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Record it without a device: --device none.",
            "no trace to record: llama.cpp holds all experts itself");
    }
    return fb_recorder_new(fb_binding_weights(m->binding), path, &s->recorder, err);
}

enum forebay_status forebay_trace_stop(struct forebay_session *s, struct forebay_error *err)
{
    struct fb_recorder *recorder = s->recorder;
    s->recorder = NULL;
    return fb_recorder_close(recorder, err);
}

/* --- Sampling ------------------------------------------------------------------------------ */

void forebay_sampling_init(struct forebay_sampling *sampling)
{
    *sampling = (struct forebay_sampling){
        .temp = 0,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .typical_p = 1,
        .top_n_sigma = -1,
        .repeat_penalty = 1,
        .repeat_last_n = 64,
        .dry_base = 1.75f,
        .dry_allowed_length = 2,
        .dry_penalty_last_n = 64,
        .xtc_threshold = 0.1f,
        .dynatemp_exponent = 1,
        .mirostat_tau = 5,
        .mirostat_eta = 0.1f,
    };
}

enum forebay_status forebay_sampling_set(
    struct forebay_session *s, const struct forebay_sampling *sampling, struct forebay_error *err)
{
    struct forebay_sampler *sampler;
    enum forebay_status status = forebay_sampler_new(s->model, sampling, NULL, &sampler, err);
    if (status == FOREBAY_OK) {
        forebay_sampler_free(s->sampler);
        s->sampler = sampler;
    }
    return status;
}

int32_t forebay_sample(struct forebay_session *s)
{
    if (s->n_rows == 0) {
        return -1;
    }
    if (!s->sampler) {
        struct forebay_sampling greedy;
        forebay_sampling_init(&greedy);
        forebay_sampling_set(s, &greedy, NULL);
    }
    int32_t token = -1;
    forebay_sampler_pick(s->sampler, s, s->n_rows - 1, &token, NULL);
    return token;
}

void forebay_sample_accept(struct forebay_session *s, int32_t token)
{
    if (s->sampler) {
        forebay_sampler_accept(s->sampler, token);
    }
}
