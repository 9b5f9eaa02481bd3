/* sequences.c - several sequences in one session: evaluated together, cut, copied, saved. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/session.h"
#include "engine/model_options.h"

#define KV_FULL 1 /* llama_decode: no room; nothing has changed */

/* --- Evaluating ---------------------------------------------------------------------------- */

static enum forebay_status check_items(const struct forebay_session *s,
    const struct forebay_item *items, size_t n, struct forebay_error *err)
{
    const struct forebay_model *m = s->model;
    uint32_t n_seq = forebay_model_sequences(m), added[FB_SEQ_MAX] = {0}, n_rows = 0;
    if (m->broken) {
        return fb_fail(err, FOREBAY_E_LLAMA, "Load the model again.",
            "an earlier failure inside llama.cpp left the model in an unknown state");
    }
    if (n == 0 || n > m->preflight->options.batch) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%zu tokens in a pass of 1 to %u", n,
            m->preflight->options.batch);
    }
    for (size_t i = 0; i < n; i++) {
        int seq = items[i].seq;
        if (seq < 0 || (uint32_t)seq >= n_seq) {
            return fb_fail(err, FOREBAY_E_USAGE, "", "sequence %d of %u", seq, n_seq);
        }
        if (items[i].token < 0 || items[i].token >= llama_vocab_n_tokens(m->vocab)) {
            return fb_fail(err, FOREBAY_E_USAGE, "", "token %d is not in the vocabulary of %d",
                items[i].token, llama_vocab_n_tokens(m->vocab));
        }
        if (s->past[seq] + ++added[seq] > m->preflight->options.ctx) {
            return fb_fail(err, FOREBAY_E_USAGE, "Give a larger --ctx.",
                "sequence %d is longer than the context of %u", seq, m->preflight->options.ctx);
        }
        n_rows += items[i].logits;
    }
    if (n_rows > n_seq && !m->preflight->options.all_logits) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "logits of %u tokens in a pass of %u sequences",
            n_rows, n_seq);
    }
    return FOREBAY_OK;
}

static void empty(struct forebay_session *s, int seq)
{
    llama_memory_seq_rm(llama_get_memory(s->model->ctx), seq, -1, -1);
    s->past[seq] = 0;
}

/* Tokens of a prompt are many of one sequence, or want no logits. */
static bool is_prompt(const struct forebay_item *items, size_t n)
{
    bool seen[FB_SEQ_MAX] = {0};
    for (size_t i = 0; i < n; i++) {
        if (!items[i].logits || seen[items[i].seq]) {
            return true;
        }
        seen[items[i].seq] = true;
    }
    return false;
}

static struct llama_batch make_batch(
    const struct forebay_session *s, const struct forebay_item *items, size_t n)
{
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    uint32_t added[FB_SEQ_MAX] = {0};
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

enum forebay_status forebay_decode(struct forebay_session *s, const struct forebay_item *items,
    size_t n, struct forebay_error *err)
{
    enum forebay_status status = check_items(s, items, n, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    bool prompt = is_prompt(items, n);
    struct fb_moment start = fb_session_moment(s);
    uint32_t past = s->past[items[0].seq];
    s->start_ns = s->start_ns ? s->start_ns : start.ns;
    if (s->model->preflight->history) {
        fb_history_count(s->model->preflight->history, !prompt);
    }
    struct llama_batch batch = make_batch(s, items, n);
    int code;
    s->n_rows = 0;
    status = fb_session_decode(s, batch, &code, err);
    llama_batch_free(batch);
    if (status == FOREBAY_E_LLAMA && code == KV_FULL) {
        return fb_fail(err, FOREBAY_E_NOFIT, "Give a larger --ctx.", "the KV cache is full");
    }
    for (size_t i = 0; i < n; i++) {
        if (status == FOREBAY_OK) {
            s->past[items[i].seq]++;
        } else if (!s->model->broken) {
            empty(s, items[i].seq);
        }
    }
    if (status == FOREBAY_OK) {
        s->n_rows = n;
        s->all_rows = true;
        fb_session_account(s, n, past, prompt, start);
    }
    return status;
}

/* --- Cutting and copying ------------------------------------------------------------------- */

uint32_t forebay_seq_length(const struct forebay_session *s, int seq)
{
    return s->past[seq];
}

bool forebay_seq_can_cut(const struct forebay_session *s)
{
    return !llama_model_is_recurrent(s->model->llama) && !llama_model_is_hybrid(s->model->llama);
}

uint32_t forebay_seq_keep(struct forebay_session *s, int seq, uint32_t n)
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

uint32_t forebay_seq_copy(struct forebay_session *s, int from, int to, uint32_t n)
{
    FB_ASSERT(from != to && n <= s->past[from]);
    empty(s, to);
    if (n == 0 || (n < s->past[from] && !forebay_seq_can_cut(s))) {
        return 0;
    }
    llama_memory_seq_cp(llama_get_memory(s->model->ctx), from, to, -1, (llama_pos)n);
    s->past[to] = n;
    return n;
}

/* --- Files --------------------------------------------------------------------------------- */

enum forebay_status forebay_seq_save(struct forebay_session *s, int seq, const int32_t *tokens,
    uint32_t n, const char *path, struct forebay_error *err)
{
    if (n != s->past[seq]) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "sequence %d has %u tokens", seq, s->past[seq]);
    }
    if (llama_state_seq_save_file(s->model->ctx, path, seq, tokens, n) == 0) {
        return fb_fail(err, FOREBAY_E_IO, "Check that there is room, and that it can be written.",
            "cannot write %s", path);
    }
    return FOREBAY_OK;
}

enum forebay_status forebay_seq_load(
    struct forebay_session *s, int seq, uint32_t n, const char *path, struct forebay_error *err)
{
    bool fits = n <= s->model->preflight->options.ctx;
    int32_t *tokens = fb_xcalloc(fits ? n : 0, sizeof *tokens);
    size_t got = 0;
    enum forebay_status status = FOREBAY_OK;
    empty(s, seq);
    if (!fits || llama_state_seq_load_file(s->model->ctx, path, seq, tokens, n, &got) == 0 ||
        got != n) {
        empty(s, seq);
        status = fb_fail(err, FOREBAY_E_IO, "", "the state in %s cannot be taken up", path);
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

uint64_t forebay_state_fingerprint(const struct forebay_model *m)
{
    const struct forebay_model_options *o = &m->preflight->options;
    const char *version = llama_version();
    uint64_t hash = mix(0xcbf29ce484222325u, version, strlen(version));
    uint64_t settings[] = {o->repack, m->binding != NULL, (uint64_t)m->placement.device.n_layers};
    hash = mix(hash, settings, sizeof settings);
    for (int i = 0; i < m->preflight->catalog->n_files; i++) {
        uint64_t file[] = {
            m->preflight->catalog->files[i]->size, m->preflight->catalog->files[i]->identity[2]};
        hash = mix(hash, file, sizeof file);
    }
    for (int i = 0; i < m->preflight->catalog->n_tensors; i++) {
        const struct fb_tensor *t = &m->preflight->catalog->tensors[i];
        hash = mix(hash, t->name, strlen(t->name));
        hash = mix(hash, &t->type, sizeof t->type);
        hash = mix(hash, &t->offset, sizeof t->offset);
    }
    return hash;
}
