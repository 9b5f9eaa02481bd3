/* session.c - evaluating tokens, sampling, and the figures of a run. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/guard.h"
#include "engine/speed.h"
#include "os/memory.h"

/* Which experts a row uses: for the trace, and for the plans of later runs. */
static void note_route(void *user, int group, const int *experts, int n)
{
    struct strata_session *s = user;
    st_recorder_note(s->recorder, group, experts, n);
    st_history_note(s->model->history, group, experts, n);
}

enum strata_status strata_session_new(
    struct strata_model *model, struct strata_session **out, struct strata_error *err)
{
    if (model->in_session) {
        return st_fail(err, STRATA_E_USAGE, "Free the other session first.",
            "the model already has a session");
    }
    struct strata_session *s = st_xcalloc(1, sizeof *s);
    s->model = model;
    s->past = st_xcalloc(strata_model_sequences(model), sizeof *s->past);
    model->in_session = true;
    llama_memory_clear(llama_get_memory(model->ctx), true);
    if (model->binding) {
        st_binding_observe(model->binding, note_route, s);
    }
    *out = s;
    return STRATA_OK;
}

/* Seconds of computing with weights, of the tokens that came alone: without what their predictions
 * count on top. */
static double weights_s(const struct strata_session *s)
{
    const struct strata_model *m = s->model;
    double all = (double)s->alone_compute_ns * 1e-9;
    uint64_t waited_for =
        s->alone_expert_bytes - st_min(s->alone_expert_bytes, s->alone_foreseen_bytes);
    uint64_t ahead = s->alone_read_bytes - st_min(s->alone_read_bytes, waited_for);
    double extra =
        st_speed_attention_s(m, (double)s->alone_past, false) + (double)ahead * m->disk_cpu_s;
    return fmax(all - extra, all / 2);
}

void strata_session_free(struct strata_session *s)
{
    if (s) {
        struct strata_model *m = s->model;
        st_recorder_close(s->recorder, NULL);
        if (m->binding) {
            st_binding_observe(m->binding, NULL, NULL);
        }
        if (m->history) {
            st_history_note_foreseen(m->history, s->alone_foreseen_bytes, s->alone_expert_bytes);
            st_history_save(m->history, m->options.threads, m->options.repack,
                (struct st_computed){s->alone_tokens, weights_s(s)},
                (struct st_computed){s->prompt_tokens, (double)s->prompt_compute_ns * 1e-9});
        }
        strata_sampler_free(s->sampler);
        s->model->in_session = false;
        free(s->past);
        free(s);
    }
}

uint32_t strata_session_n_past(const struct strata_session *s)
{
    return s->past[0];
}

/* --- Evaluating ---------------------------------------------------------------------------- */

static enum strata_status check_eval(const struct strata_session *s, const int32_t *tokens,
    size_t n, bool all_logits, struct strata_error *err)
{
    const struct strata_model *m = s->model;
    if (m->broken) {
        return st_fail(err, STRATA_E_LLAMA, "Load the model again.",
            "an earlier failure inside llama.cpp left the model in an unknown state");
    }
    if (s->broken) {
        return st_fail(err, STRATA_E_IO, "Start a new session.",
            "an earlier failure left this session without its past");
    }
    if (n == 0) {
        return st_fail(err, STRATA_E_USAGE, "", "no tokens to evaluate");
    }
    if (s->past[0] + n > m->options.ctx) {
        return st_fail(err, STRATA_E_USAGE, "Give a larger --ctx.",
            "%zu more tokens do not fit into a context of %u (%u in use)", n, m->options.ctx,
            s->past[0]);
    }
    if (all_logits && !m->options.all_logits) {
        return st_fail(
            err, STRATA_E_USAGE, "", "the model was not loaded for logits of all tokens");
    }
    if (all_logits && n > m->options.batch) {
        return st_fail(err, STRATA_E_USAGE, "Evaluate in passes of at most the batch.",
            "logits of %zu tokens in one call: the batch is %u", n, m->options.batch);
    }
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= llama_vocab_n_tokens(m->vocab)) {
            return st_fail(err, STRATA_E_USAGE, "", "token %d is not in the vocabulary of %d",
                tokens[i], llama_vocab_n_tokens(m->vocab));
        }
    }
    return STRATA_OK;
}

/* A failed pass must leave nothing behind: its cells are removed from the memory. */
static void take_back(struct strata_session *s)
{
    llama_memory_t memory = llama_get_memory(s->model->ctx);
    if (!llama_memory_seq_rm(memory, 0, (llama_pos)s->past[0], -1)) {
        s->broken = true; /* recurrent state cannot be taken back in part */
    }
}

uint32_t strata_session_keep(struct strata_session *s, uint32_t n)
{
    if (n >= s->past[0] && !s->broken) {
        return s->past[0];
    }
    llama_memory_t memory = llama_get_memory(s->model->ctx);
    if (n == 0 || s->broken || !llama_memory_seq_rm(memory, 0, (llama_pos)n, -1)) {
        llama_memory_clear(memory, true);
        n = 0;
        s->broken = false; /* nothing is left that could be wrong */
    }
    s->past[0] = n;
    s->n_rows = 0;
    return n;
}

enum strata_status st_session_decode(
    struct strata_session *s, struct llama_batch batch, int *code, struct strata_error *err)
{
    struct strata_model *m = s->model;
    *code = 0;
    enum strata_status status = st_guard_decode(m->ctx, batch, code, err);
    m->broken = status != STRATA_OK && *code == 0; /* it did not return */
    if (status != STRATA_OK && m->binding) {
        enum strata_status cause = st_binding_take_error(m->binding, err);
        status = cause != STRATA_OK ? cause : status;
    }
    if (status == STRATA_OK && m->binding) { /* what was read must still be what was opened */
        status = st_catalog_check_files(m->catalog, err);
        if (status == STRATA_OK && m->sidecar) {
            status = st_file_check(st_sidecar_file(m->sidecar), err);
        }
    }
    return status;
}

static enum strata_status eval_pass(struct strata_session *s, const int32_t *tokens, size_t n,
    bool all_logits, bool last, struct strata_error *err)
{
    struct strata_model *m = s->model;
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
    enum strata_status status = st_session_decode(s, batch, &code, err);
    llama_batch_free(batch);
    if (status != STRATA_OK) {
        if (!m->broken) {
            take_back(s);
        }
        return status;
    }
    s->past[0] += (uint32_t)n;
    return STRATA_OK;
}

struct st_moment st_session_moment(const struct strata_session *s)
{
    const struct strata_model *m = s->model;
    struct st_stream_stats stats = {0};
    if (m->binding) {
        st_stream_stats(st_binding_stream(m->binding), &stats);
    }
    return (struct st_moment){st_now_ns(), stats.io.read_bytes, stats.stall_ns + stats.arrive_ns,
        stats.expert_bytes, stats.foreseen_bytes};
}

void st_session_account(
    struct strata_session *s, size_t n, uint32_t past, bool prompt, struct st_moment start)
{
    struct st_moment end = st_session_moment(s);
    uint64_t ns = end.ns - start.ns, waited = end.waited_ns - start.waited_ns;
    if (prompt) {
        s->prompt_tokens += n;
        s->prompt_ns += ns;
        s->prompt_compute_ns += ns - st_min(ns, waited);
    } else {
        s->decode_tokens += n;
        s->decode_ns += ns;
        if (n == 1) {
            s->alone_tokens++;
            s->alone_compute_ns += ns - st_min(ns, waited);
            s->alone_expert_bytes += end.expert_bytes - start.expert_bytes;
            s->alone_foreseen_bytes += end.foreseen_bytes - start.foreseen_bytes;
            s->alone_read_bytes += end.read_bytes - start.read_bytes;
            s->alone_past += past;
        }
        s->decode_read_bytes += end.read_bytes - start.read_bytes;
    }
}

enum strata_status strata_eval(struct strata_session *s, const int32_t *tokens, size_t n,
    bool all_logits, struct strata_error *err)
{
    enum strata_status status = check_eval(s, tokens, n, all_logits, err);
    if (status != STRATA_OK) {
        return status;
    }
    bool prompt = s->prompt_tokens == 0 || n > 1; /* what begins a session is its prompt */
    struct st_moment start = st_session_moment(s);
    s->start_ns = s->start_ns ? s->start_ns : start.ns;
    if (s->model->history) {
        st_history_count(s->model->history, !prompt);
    }
    s->n_rows = 0;
    for (size_t done = 0; done < n;) {
        size_t count = st_min(n - done, s->model->options.batch);
        st_recorder_begin(s->recorder);
        status = eval_pass(s, tokens + done, count, all_logits, done + count == n, err);
        if (status != STRATA_OK) {
            return status;
        }
        st_recorder_write(s->recorder, tokens + done, count, prompt);
        done += count;
    }
    s->n_rows = all_logits ? n : 1;
    s->all_rows = all_logits;
    st_session_account(s, n, s->past[0] - (uint32_t)n, prompt, start);
    return STRATA_OK;
}

int32_t st_session_row(const struct strata_session *s, size_t i)
{
    ST_ASSERT(i < s->n_rows);
    return s->all_rows ? (int32_t)i : -1;
}

const float *strata_logits(struct strata_session *s, size_t i)
{
    return llama_get_logits_ith(s->model->ctx, st_session_row(s, i));
}

/* --- Routing traces ------------------------------------------------------------------------ */

enum strata_status strata_trace_start(
    struct strata_session *s, const char *path, struct strata_error *err)
{
    const struct strata_model *m = s->model;
    if (s->recorder) {
        return st_fail(err, STRATA_E_USAGE, "Stop the other one first.",
            "the session records a trace already");
    }
    if (m->catalog->n_expert == 0) {
        return st_fail(err, STRATA_E_UNSUPPORTED, "Only mixture-of-experts models have routes.",
            "there is no trace to record: the model has no experts");
    }
    if (!m->binding || st_binding_weights(m->binding)->n_groups == 0) {
        return st_fail(err, STRATA_E_UNSUPPORTED, "Record it without a device: --device none.",
            "there is no trace to record: llama.cpp holds all experts itself");
    }
    return st_recorder_new(st_binding_weights(m->binding), path, &s->recorder, err);
}

enum strata_status strata_trace_stop(struct strata_session *s, struct strata_error *err)
{
    struct recorder *recorder = s->recorder;
    s->recorder = NULL;
    return st_recorder_close(recorder, err);
}

/* --- Sampling ------------------------------------------------------------------------------ */

void strata_sampling_init(struct strata_sampling *sampling)
{
    *sampling = (struct strata_sampling){
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

enum strata_status strata_sampling_set(
    struct strata_session *s, const struct strata_sampling *sampling, struct strata_error *err)
{
    struct strata_sampler *sampler;
    enum strata_status status = strata_sampler_new(s->model, sampling, NULL, &sampler, err);
    if (status == STRATA_OK) {
        strata_sampler_free(s->sampler);
        s->sampler = sampler;
    }
    return status;
}

int32_t strata_sample(struct strata_session *s)
{
    if (s->n_rows == 0) {
        return -1;
    }
    if (!s->sampler) {
        struct strata_sampling greedy;
        strata_sampling_init(&greedy);
        strata_sampling_set(s, &greedy, NULL);
    }
    int32_t token = -1;
    strata_sampler_pick(s->sampler, s, s->n_rows - 1, &token, NULL);
    return token;
}

void st_session_sampled(struct strata_session *s)
{
    if (s->generated_tokens++ == 0) {
        s->first_token_ns = st_now_ns() - s->start_ns;
    }
}

void strata_sample_accept(struct strata_session *s, int32_t token)
{
    if (s->sampler) {
        strata_sampler_accept(s->sampler, token);
    }
}

/* --- Figures ------------------------------------------------------------------------------- */

static double rate(uint64_t count, uint64_t ns)
{
    return ns ? (double)count / ((double)ns * 1e-9) : 0;
}

/* As before the first token, but for tokens with as many before them as there were. */
static double predicted(const struct strata_session *s)
{
    const struct strata_model *m = s->model;
    struct st_speed speed = m->speed;
    bool one = strata_model_sequences(m) == 1; /* others have tokens of all lengths at once */
    if (one && speed.decode_tok_per_s > 0 && s->alone_tokens > 0) {
        double past = (double)s->alone_past / (double)s->alone_tokens;
        st_speed_predict(m, m->plan, m->disk_bytes_per_s, past, &speed);
    }
    return speed.decode_tok_per_s;
}

void strata_stats_get(const struct strata_session *s, struct strata_stats *out)
{
    const struct strata_model *m = s->model;
    struct st_stream_stats stream = {0};
    if (m->binding) {
        st_stream_stats(st_binding_stream(m->binding), &stream);
    }
    *out = (struct strata_stats){
        .decode_tok_per_s = rate(s->decode_tokens, s->decode_ns),
        .prompt_tok_per_s = rate(s->prompt_tokens, s->prompt_ns),
        .time_to_first_token_s = (double)s->first_token_ns * 1e-9,
        .prompt_tokens = s->prompt_tokens,
        .generated_tokens = s->generated_tokens,
        .read_bytes = stream.io.read_bytes - m->loaded.io.read_bytes,
        .decode_read_bytes = s->decode_read_bytes,
        .demand_bytes = stream.demand_bytes - m->loaded.demand_bytes,
        .prefetch_bytes = stream.prefetch_bytes - m->loaded.prefetch_bytes,
        .prefetch_used_bytes = stream.prefetch_used_bytes - m->loaded.prefetch_used_bytes,
        .expert_requests = stream.expert_requests,
        .expert_hits = stream.expert_hits,
        .prompt_s = (double)s->prompt_ns * 1e-9,
        .decode_s = (double)s->decode_ns * 1e-9,
        .stall_s = (double)(stream.stall_ns - m->loaded.stall_ns) * 1e-9,
        .prefetch_stall_s = (double)(stream.prefetch_stall_ns - m->loaded.prefetch_stall_ns) * 1e-9,
        .arrive_s = (double)(stream.arrive_ns - m->loaded.arrive_ns) * 1e-9,
        .disk_bytes_per_s = m->disk_bytes_per_s,
        .predicted_tok_per_s = predicted(s),
        .predicted_prompt_tok_per_s = m->speed.prompt_tok_per_s,
        .load_s = m->load_s,
        .load_read_bytes = m->load_read_bytes,
        .resident_bytes = m->placement.resident_bytes,
        .device_layers = (uint64_t)m->placement.device.n_layers,
        .device_bytes = m->placement.device.bytes,
        .governor_shrinks = stream.shrinks,
        .governor_grows = stream.grows,
        .peak_rss_bytes = st_memory_peak_rss(),
        .budget_bytes = m->placement.budget_bytes,
        .written_bytes = st_os_written_bytes(),
    };
    memcpy(out->device_name, m->placement.device.name, sizeof out->device_name);
    double own_s = m->binding ? (double)st_binding_own_ns(m->binding) * 1e-9 : 0;
    double waited_s = out->stall_s + out->arrive_s, wall_s = out->prompt_s + out->decode_s;
    out->demand_stall_s = out->stall_s - out->prefetch_stall_s;
    out->scheduler_s = own_s > waited_s ? own_s - waited_s : 0;
    double ours_s = waited_s + out->scheduler_s;
    out->compute_s = wall_s > ours_s ? wall_s - ours_s : 0;
    if (out->expert_requests) {
        out->hit_rate = (double)out->expert_hits / (double)out->expert_requests;
    }
    if (m->disk_bytes_per_s > 0 && s->decode_ns > 0) {
        uint64_t cold = st_catalog_bytes_per_token(m->catalog);
        out->disk_utilisation =
            (double)s->decode_read_bytes / ((double)s->decode_ns * 1e-9 * m->disk_bytes_per_s);
        out->roofline_ratio = out->decode_tok_per_s * (double)cold / m->disk_bytes_per_s;
    }
}

const char *strata_version(void)
{
#define ST_TEXT(x)  #x
#define ST_TEXT2(x) ST_TEXT(x)
    return ST_TEXT2(STRATA_VERSION_MAJOR) "." ST_TEXT2(STRATA_VERSION_MINOR) "." ST_TEXT2(
        STRATA_VERSION_PATCH);
}

const char *strata_llama_version(void)
{
    return llama_version();
}
