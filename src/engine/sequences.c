/* sequences.c - several sequences in one session: evaluated together, cut, copied, saved. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/guard.h"

#define KV_FULL 1 /* llama_decode: no room; nothing has changed */

/* --- Evaluating ---------------------------------------------------------------------------- */

static enum strata_status check_items(const struct strata_session *s,
    const struct strata_item *items, size_t n, struct strata_error *err)
{
    const struct strata_model *m = s->model;
    uint32_t n_seq = strata_model_sequences(m), added[256] = {0}, n_rows = 0;
    if (m->broken) {
        return st_fail(err, STRATA_E_LLAMA, "Load the model again.",
            "an earlier failure inside llama.cpp left the model in an unknown state");
    }
    if (n == 0 || n > m->options.batch) {
        return st_fail(
            err, STRATA_E_USAGE, "", "%zu tokens in a pass of 1 to %u", n, m->options.batch);
    }
    for (size_t i = 0; i < n; i++) {
        int seq = items[i].seq;
        if (seq < 0 || (uint32_t)seq >= n_seq) {
            return st_fail(err, STRATA_E_USAGE, "", "sequence %d of %u", seq, n_seq);
        }
        if (items[i].token < 0 || items[i].token >= llama_vocab_n_tokens(m->vocab)) {
            return st_fail(err, STRATA_E_USAGE, "", "token %d is not in the vocabulary of %d",
                items[i].token, llama_vocab_n_tokens(m->vocab));
        }
        if (s->past[seq] + ++added[seq] > m->options.ctx) {
            return st_fail(err, STRATA_E_USAGE, "Give a larger --ctx.",
                "sequence %d is longer than the context of %u", seq, m->options.ctx);
        }
        n_rows += items[i].logits;
    }
    if (n_rows > n_seq && !m->options.all_logits) {
        return st_fail(err, STRATA_E_USAGE, "", "logits of %u tokens in a pass of %u sequences",
            n_rows, n_seq);
    }
    return STRATA_OK;
}

static void empty(struct strata_session *s, int seq)
{
    llama_memory_seq_rm(llama_get_memory(s->model->ctx), seq, -1, -1);
    s->past[seq] = 0;
}

/* Tokens of a prompt are many of one sequence, or want no logits. */
static bool is_prompt(const struct strata_item *items, size_t n)
{
    bool seen[256] = {0};
    for (size_t i = 0; i < n; i++) {
        if (!items[i].logits || seen[items[i].seq]) {
            return true;
        }
        seen[items[i].seq] = true;
    }
    return false;
}

static struct llama_batch make_batch(
    const struct strata_session *s, const struct strata_item *items, size_t n)
{
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    uint32_t added[256] = {0};
    for (size_t i = 0; i < n; i++) {
        int seq = items[i].seq;
        batch.token[i] = items[i].token;
        batch.pos[i] = (llama_pos)(s->past[seq] + added[seq]++);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i] = items[i].logits;
    }
    batch.n_tokens = (int32_t)n;
    return batch;
}

enum strata_status strata_decode(
    struct strata_session *s, const struct strata_item *items, size_t n, struct strata_error *err)
{
    enum strata_status status = check_items(s, items, n, err);
    if (status != STRATA_OK) {
        return status;
    }
    bool prompt = is_prompt(items, n);
    struct st_moment start = st_session_moment(s);
    uint32_t past = s->past[items[0].seq];
    s->start_ns = s->start_ns ? s->start_ns : start.ns;
    if (s->model->history) {
        st_history_count(s->model->history, !prompt);
    }
    struct llama_batch batch = make_batch(s, items, n);
    int code;
    s->n_rows = 0;
    status = st_session_decode(s, batch, &code, err);
    llama_batch_free(batch);
    if (status == STRATA_E_LLAMA && code == KV_FULL) {
        return st_fail(err, STRATA_E_NOFIT, "Give a larger --ctx.", "the KV cache is full");
    }
    for (size_t i = 0; i < n; i++) {
        if (status == STRATA_OK) {
            s->past[items[i].seq]++;
        } else if (!s->model->broken) {
            empty(s, items[i].seq);
        }
    }
    if (status == STRATA_OK) {
        s->n_rows = n;
        s->all_rows = true;
        st_session_account(s, n, past, prompt, start);
    }
    return status;
}

/* --- Cutting and copying ------------------------------------------------------------------- */

uint32_t strata_seq_length(const struct strata_session *s, int seq)
{
    return s->past[seq];
}

bool strata_seq_can_cut(const struct strata_session *s)
{
    return !llama_model_is_recurrent(s->model->llama) && !llama_model_is_hybrid(s->model->llama);
}

uint32_t strata_seq_keep(struct strata_session *s, int seq, uint32_t n)
{
    if (n >= s->past[seq]) {
        return s->past[seq];
    }
    if (n == 0 || !llama_memory_seq_rm(llama_get_memory(s->model->ctx), seq, (llama_pos)n, -1)) {
        empty(s, seq);
        n = 0;
    }
    s->past[seq] = n;
    return n;
}

uint32_t strata_seq_copy(struct strata_session *s, int from, int to, uint32_t n)
{
    ST_ASSERT(from != to && n <= s->past[from]);
    empty(s, to);
    if (n == 0 || (n < s->past[from] && !strata_seq_can_cut(s))) {
        return 0;
    }
    llama_memory_seq_cp(llama_get_memory(s->model->ctx), from, to, -1, (llama_pos)n);
    s->past[to] = n;
    return n;
}

/* --- Files --------------------------------------------------------------------------------- */

enum strata_status strata_seq_save(struct strata_session *s, int seq, const int32_t *tokens,
    uint32_t n, const char *path, struct strata_error *err)
{
    if (n != s->past[seq]) {
        return st_fail(err, STRATA_E_USAGE, "", "sequence %d has %u tokens", seq, s->past[seq]);
    }
    if (llama_state_seq_save_file(s->model->ctx, path, seq, tokens, n) == 0) {
        return st_fail(err, STRATA_E_IO, "Check that there is room, and that it can be written.",
            "cannot write %s", path);
    }
    return STRATA_OK;
}

enum strata_status strata_seq_load(
    struct strata_session *s, int seq, uint32_t n, const char *path, struct strata_error *err)
{
    bool fits = n <= s->model->options.ctx;
    int32_t *tokens = st_xcalloc(fits ? n : 0, sizeof *tokens);
    size_t got = 0;
    enum strata_status status = STRATA_OK;
    empty(s, seq);
    if (!fits || llama_state_seq_load_file(s->model->ctx, path, seq, tokens, n, &got) == 0 ||
        got != n) {
        empty(s, seq);
        status = st_fail(err, STRATA_E_IO, "", "the state in %s cannot be taken up", path);
    } else {
        s->past[seq] = n;
    }
    free(tokens);
    return status;
}

/* FNV-1a. */
static uint64_t mix(uint64_t hash, const void *bytes, size_t n)
{
    const unsigned char *at = bytes;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ at[i]) * 0x100000001b3u;
    }
    return hash;
}

uint64_t strata_state_fingerprint(const struct strata_model *m)
{
    const struct strata_model_options *o = &m->options;
    const char *version = llama_version();
    uint64_t hash = mix(0xcbf29ce484222325u, version, strlen(version));
    uint64_t settings[] = {o->repack, m->binding != NULL, (uint64_t)m->placement.device.n_layers};
    hash = mix(hash, settings, sizeof settings);
    for (int i = 0; i < m->catalog->n_files; i++) {
        uint64_t file[] = {m->catalog->files[i]->size, m->catalog->files[i]->identity[2]};
        hash = mix(hash, file, sizeof file);
    }
    for (int i = 0; i < m->catalog->n_tensors; i++) {
        const struct st_tensor *t = &m->catalog->tensors[i];
        hash = mix(hash, t->name, strlen(t->name));
        hash = mix(hash, &t->type, sizeof t->type);
        hash = mix(hash, &t->offset, sizeof t->offset);
    }
    return hash;
}
