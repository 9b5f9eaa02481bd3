/* sequences.c - several sequences in one session: evaluated together, cut, copied, saved. The KV
 * cache is llama.cpp's; session->past has the length of each sequence in it. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/model_options.h"
#include "engine/session.h"

#define KV_FULL 1 /* llama_decode found no room, and has changed nothing */

/* --- Evaluating ---------------------------------------------------------------------------- */

static enum forebay_status check_items(const struct forebay_session *s,
    const struct forebay_item *items, size_t n, struct forebay_error *err)
{
    const struct forebay_model_options *o = fb_model_options(s->model);
    uint32_t n_seq = fb_options_sequences(o), added[FB_SEQ_MAX] = {0}, n_rows = 0;
    enum forebay_status status = fb_model_check_usable(s->model, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (n == 0 || n > o->batch) {
        return fb_fail(
            err, FOREBAY_E_USAGE, "", "%zu tokens in a pass: must be 1 to %u", n, o->batch);
    }
    for (size_t i = 0; i < n; i++) {
        int seq = items[i].seq;
        if (seq < 0 || (uint32_t)seq >= n_seq) {
            return fb_fail(
                err, FOREBAY_E_USAGE, "", "sequence %d: there are %u, from 0", seq, n_seq);
        }
        status = fb_model_check_token(s->model, items[i].token, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        if (s->past[seq] + ++added[seq] > o->ctx) {
            return fb_fail(err, FOREBAY_E_USAGE, "Give a larger --ctx.",
                "sequence %d would be longer than the context of %u", seq, o->ctx);
        }
        n_rows += items[i].logits;
    }
    if (n_rows > n_seq && !o->all_logits) {
        return fb_fail(err, FOREBAY_E_USAGE, "",
            "logits of %u tokens in a pass: at most %u, one per sequence", n_rows, n_seq);
    }
    return FOREBAY_OK;
}

static void empty(struct forebay_session *s, int seq)
{
    llama_memory_seq_rm(llama_get_memory(s->model->ctx), seq, -1, -1);
    s->past[seq] = 0;
}

/* A pass is a prompt's when it has several tokens of one sequence, or tokens without logits. */
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
    uint32_t past = s->past[items[0].seq];
    struct fb_moment begin = fb_session_begin(s, prompt);
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
        fb_session_end(s, n, past, prompt, begin);
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
        return fb_fail(err, FOREBAY_E_IO,
            "Check the free space and the permissions of the directory.", "cannot write %s", path);
    }
    return FOREBAY_OK;
}

enum forebay_status forebay_seq_load(
    struct forebay_session *s, int seq, uint32_t n, const char *path, struct forebay_error *err)
{
    bool fits = n <= fb_model_options(s->model)->ctx;
    int32_t *tokens = fb_xcalloc(fits ? n : 0, sizeof *tokens);
    size_t got = 0;
    enum forebay_status status = FOREBAY_OK;
    empty(s, seq);
    if (!fits || llama_state_seq_load_file(s->model->ctx, path, seq, tokens, n, &got) == 0 ||
        got != n) {
        empty(s, seq);
        status = fb_fail(err, FOREBAY_E_IO, "", "cannot restore a sequence from %s", path);
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
    const struct forebay_model_options *o = fb_model_options(m);
    const struct fb_catalog *catalog = m->preflight->catalog;
    const char *version = llama_version();
    uint64_t hash = mix(0xcbf29ce484222325u, version, strlen(version));
    uint64_t settings[] = {o->repack, m->binding != NULL, (uint64_t)m->placement.device.n_layers};
    hash = mix(hash, settings, sizeof settings);
    for (int i = 0; i < catalog->n_files; i++) {
        uint64_t file[] = {catalog->files[i]->size, catalog->files[i]->identity[2]};
        hash = mix(hash, file, sizeof file);
    }
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        hash = mix(hash, t->name, strlen(t->name));
        hash = mix(hash, &t->type, sizeof t->type);
        hash = mix(hash, &t->offset, sizeof t->offset);
    }
    return hash;
}
