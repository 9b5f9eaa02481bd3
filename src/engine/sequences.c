/* sequences.c - several sequences in one session: evaluated together, cut, copied, saved. The KV
 * cache is llama.cpp's; session->past has the length of each sequence in it. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/guard.h"
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

/* With no tokens left the whole memory is cleared, so that the next ones are put where a new
 * session would put them: attention adds in the order of cells, and its last bits depend on it. */
static void empty(struct forebay_session *s, int seq)
{
    llama_memory_t memory = llama_get_memory(s->model->ctx);
    uint32_t n_seq = fb_options_sequences(fb_model_options(s->model)), used = 0;
    llama_memory_seq_rm(memory, seq, -1, -1);
    s->past[seq] = 0;
    for (uint32_t i = 0; i < n_seq; i++) {
        used += s->past[i] > 0;
    }
    if (used == 0) {
        llama_memory_clear(memory, false);
    }
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

uint32_t forebay_seq_cut_max(const struct forebay_session *s)
{
    int32_t window = llama_model_n_swa(s->model->llama);
    return !forebay_seq_can_cut(s) ? 0 : window > 0 ? (uint32_t)window : UINT32_MAX;
}

uint32_t forebay_seq_shortest(const struct forebay_session *s, int seq)
{
    uint32_t past = s->past[seq];
    if (past == 0 || !forebay_seq_can_cut(s)) {
        return past;
    }
    /* Older cells of layers with a sliding window are overwritten. A token after n others looks
     * back at most `window` tokens, in chunked attention too. */
    llama_pos first = llama_memory_seq_pos_min(llama_get_memory(s->model->ctx), seq);
    int32_t window = llama_model_n_swa(s->model->llama);
    if (first <= 0) {
        return first == 0 ? 1 : past;
    }
    return window > 0 ? (uint32_t)fb_min(past, (uint64_t)first + (uint64_t)window) : past;
}

uint32_t forebay_seq_keep(struct forebay_session *s, int seq, uint32_t n)
{
    if (n >= s->past[seq]) {
        return s->past[seq];
    }
    if (n < forebay_seq_shortest(s, seq) ||
        !llama_memory_seq_rm(llama_get_memory(s->model->ctx), seq, (llama_pos)n, -1)) {
        empty(s, seq);
        return 0;
    }
    s->past[seq] = n;
    return n;
}

uint32_t forebay_seq_copy(struct forebay_session *s, int from, int to, uint32_t n)
{
    FB_ASSERT(from != to && n <= s->past[from]);
    empty(s, to);
    if (n == 0 || n < forebay_seq_shortest(s, from)) {
        return 0;
    }
    /* Some memory can copy only whole sequences, and asserts that it is not asked for more. */
    llama_pos end = n == s->past[from] ? -1 : (llama_pos)n;
    llama_memory_seq_cp(llama_get_memory(s->model->ctx), from, to, -1, end);
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

static enum forebay_status bad_state(const char *path, const char *why, struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_FORMAT, "Delete it: its prompt will be computed again.",
        "cannot restore a sequence from %s: %s", path, why);
}

/* Checks what llama.cpp would trust (all numbers have 32 bits):
 *
 *      magic, version, n, n tokens | streams: 1, cells, ...          attention, or it comes first
 *                                  | cells: 1, ...                   recurrent
 *
 * llama.cpp allocates by the number of cells before it reads them. */
static enum forebay_status check_state(const struct forebay_session *s, const char *path,
    const int32_t *tokens, uint32_t n, uint64_t bytes, struct forebay_error *err)
{
    bool recurrent = llama_model_is_recurrent(s->model->llama);
    uint64_t head_bytes = ((uint64_t)n + 5) * sizeof(uint32_t);
    struct fb_file *file;
    enum forebay_status status = fb_file_open(path, false, &file, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    uint32_t *head = fb_xmalloc(head_bytes);
    if (bytes < head_bytes || bytes > file->size) {
        status = bad_state(path, "it is cut", err);
    } else {
        status = fb_file_read(file, head, head_bytes, 0, err);
    }
    if (status == FOREBAY_OK &&
        (head[0] != LLAMA_STATE_SEQ_MAGIC || head[1] != LLAMA_STATE_SEQ_VERSION)) {
        status = bad_state(path, "it is not a state of this llama.cpp", err);
    } else if (status == FOREBAY_OK &&
               (head[2] != n || memcmp(head + 3, tokens, n * sizeof *tokens) != 0)) {
        status = bad_state(path, "it has other tokens", err);
    } else if (status == FOREBAY_OK && (head[3 + n] == 1 ? head[4 + n] > n : recurrent)) {
        status = bad_state(path, "its counts are impossible", err);
    }
    free(head);
    fb_file_close(file);
    return status;
}

/* Loads a state that was checked, and checks what came of it. */
static enum forebay_status load_state(struct forebay_session *s, int seq, uint32_t n,
    const char *path, uint64_t bytes, struct forebay_error *err)
{
    struct llama_context *ctx = s->model->ctx;
    uint64_t got, again;
    enum forebay_status status = fb_guard_load_state(ctx, path, seq, n, &got, &again, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    s->past[seq] = n;
    if (got != bytes || again != bytes ||
        llama_memory_seq_pos_max(llama_get_memory(ctx), seq) != (llama_pos)n - 1) {
        return bad_state(path, "it is not a state of these tokens", err);
    }
    return FOREBAY_OK;
}

enum forebay_status forebay_seq_load(struct forebay_session *s, int seq, const int32_t *tokens,
    uint32_t n, const char *path, uint64_t bytes, struct forebay_error *err)
{
    if (n == 0 || n > fb_model_options(s->model)->ctx) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "a state of %u tokens: the context has %u", n,
            fb_model_options(s->model)->ctx);
    }
    empty(s, seq);
    enum forebay_status status = check_state(s, path, tokens, n, bytes, err);
    if (status == FOREBAY_OK) {
        status = load_state(s, seq, n, path, bytes, err);
    }
    if (status != FOREBAY_OK) {
        empty(s, seq);
    }
    return status;
}
