#include "serve/kv_reuse.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"

/* Tokens: with fewer in common, it is not worth waiting for another job, loading a state from disk
 * instead of what the cache has, or writing one. */
#define WORTH_WAITING 32
#define WORTH_LOADING 16
#define WORTH_STORING 32

/* --- Life ---------------------------------------------------------------------------------- */

void fb_sequences_init(struct fb_sequences *s, struct fb_job_queue *queue,
    struct forebay_session *session, struct fb_kv_store *store, uint32_t ctx, int n_seq,
    int n_active_max)
{
    *s = (struct fb_sequences){
        .session = session,
        .ctx = ctx,
        .n_active_max = n_active_max,
        .store = store,
        .queue = queue,
    };
    s->active = fb_xcalloc((size_t)n_active_max, sizeof *s->active);
    fb_prefix_init(&s->prefix, n_seq);
}

void fb_sequences_release(struct fb_sequences *s)
{
    forebay_session_free(s->session);
    fb_kv_store_free(s->store);
    fb_prefix_release(&s->prefix);
    free(s->active);
}

/* --- Choosing ------------------------------------------------------------------------------ */

/* At least one token of a prompt must be evaluated: its logits are needed. */
static uint32_t reusable(const struct fb_job *job)
{
    return job->n_tokens - 1;
}

bool fb_sequences_should_wait(const struct fb_sequences *s, const struct fb_job *job)
{
    uint32_t present;
    if (!forebay_seq_can_cut(s->session)) {
        return false;
    }
    fb_prefix_find(&s->prefix, job->tokens, reusable(job), false, &present);
    for (int i = 0; i < s->n_active_max; i++) {
        const struct fb_active *a = &s->active[i];
        if (a->job && !a->generating) {
            uint32_t common =
                fb_prefix_common(a->job->tokens, a->job->n_tokens, job->tokens, reusable(job));
            if (common > a->n_done && common >= present + WORTH_WAITING) {
                return true;
            }
        }
    }
    return false;
}

struct fb_active *fb_sequences_find_free(struct fb_sequences *s)
{
    for (int i = 0; i < s->n_active_max; i++) {
        if (!s->active[i].job) {
            return &s->active[i];
        }
    }
    return NULL;
}

/* --- Storing ------------------------------------------------------------------------------- */

struct stored_sequence {
    struct fb_sequences *sequences;
    int seq;
};

static enum forebay_status write_state(void *user, const char *path, struct forebay_error *err)
{
    struct stored_sequence *w = user;
    const struct fb_prefix_seq *seq = &w->sequences->prefix.seqs[w->seq];
    return forebay_seq_save(w->sequences->session, w->seq, seq->tokens, seq->n, path, err);
}

/* Unless most of it is stored already. */
static void store(struct fb_sequences *s, int i)
{
    struct fb_prefix_seq *seq = &s->prefix.seqs[i];
    struct stored_sequence what = {s, i};
    struct forebay_error err;
    uint32_t common;
    if (!s->store || seq->n < seq->n_stored + WORTH_STORING) {
        return;
    }
    fb_kv_store_find(s->store, seq->tokens, seq->n, false, &common);
    if (seq->n >= common + WORTH_STORING &&
        fb_kv_store_put(s->store, seq->tokens, seq->n, write_state, &what, &err) != FOREBAY_OK) {
        fb_warn("cannot store the state of a conversation: %s", err.message);
    }
    seq->n_stored = seq->n;
}

bool fb_sequences_store_one(struct fb_sequences *s)
{
    for (int i = 0; s->store && i < s->prefix.n_seq; i++) {
        const struct fb_prefix_seq *seq = &s->prefix.seqs[i];
        if (!seq->busy && seq->n >= seq->n_stored + WORTH_STORING) {
            store(s, i);
            return true;
        }
    }
    return false;
}

/* --- Emptying ------------------------------------------------------------------------------ */

static void empty(struct fb_sequences *s, int seq)
{
    forebay_seq_keep(s->session, seq, 0);
    fb_prefix_cut(&s->prefix, seq, 0);
}

bool fb_sequences_evict(struct fb_sequences *s)
{
    int oldest = fb_prefix_oldest(&s->prefix, -1);
    if (oldest >= 0) {
        store(s, oldest);
        empty(s, oldest);
    }
    return oldest >= 0;
}

/* Returns an empty sequence other than `keep`. There is one that is not busy: the model has more
 * sequences than jobs can be active. */
static int make_empty(struct fb_sequences *s, int keep)
{
    int seq = fb_prefix_victim(&s->prefix, keep);
    FB_ASSERT(seq >= 0);
    store(s, seq);
    empty(s, seq);
    return seq;
}

/* --- Starting ------------------------------------------------------------------------------ */

/* Loads the stored state that shares most with the prompt into the empty sequence `seq`. Returns
 * its tokens, *n of them; NULL if no state could be loaded. */
static const int32_t *load_best(
    struct fb_sequences *s, const struct fb_job *job, int seq, uint32_t *n)
{
    bool whole = !forebay_seq_can_cut(s->session);
    for (;;) { /* evicting stores states, which may replace the one that was found: search again */
        uint32_t common;
        struct forebay_error err;
        int state = fb_kv_store_find(s->store, job->tokens, reusable(job), whole, &common);
        const int32_t *tokens = state >= 0 ? fb_kv_store_tokens(s->store, state, n) : NULL;
        const char *path = state >= 0 ? fb_kv_store_check(s->store, state) : NULL;
        if (!path || *n > s->ctx) {
            return NULL;
        }
        if (forebay_seq_load(s->session, seq, *n, path, &err) == FOREBAY_OK) {
            return tokens;
        }
        if (!fb_sequences_evict(s)) { /* the cache is empty: the file must be at fault */
            fb_warn("%s", err.message);
            fb_kv_store_drop(s->store, state);
            return NULL;
        }
    }
}

/* The same, and cuts the sequence to what it shares with the prompt. Returns how many tokens. */
static uint32_t load(struct fb_sequences *s, const struct fb_job *job, int seq)
{
    uint32_t n;
    const int32_t *tokens = load_best(s, job, seq, &n);
    if (!tokens) {
        return 0;
    }
    fb_prefix_add(&s->prefix, seq, tokens, n);
    s->prefix.seqs[seq].n_stored = n;
    uint32_t common = fb_prefix_common(tokens, n, job->tokens, reusable(job));
    uint32_t length = forebay_seq_keep(s->session, seq, common);
    fb_prefix_cut(&s->prefix, seq, length);
    return length;
}

/* Returns a sequence that holds the first *n tokens of the prompt and no others. */
static int prepare(struct fb_sequences *s, const struct fb_job *job, uint32_t *n, bool *from_disk)
{
    bool whole = !forebay_seq_can_cut(s->session);
    uint32_t common, stored = 0;
    int seq = fb_prefix_find(&s->prefix, job->tokens, reusable(job), whole, &common);
    int state =
        s->store ? fb_kv_store_find(s->store, job->tokens, reusable(job), whole, &stored) : -1;
    *from_disk = false;
    if (state >= 0 && stored >= common + WORTH_LOADING) {
        int fresh = make_empty(s, seq);
        s->prefix.seqs[fresh].busy = true; /* not to be evicted */
        *n = load(s, job, fresh);
        s->prefix.seqs[fresh].busy = false;
        if (*n >= common && *n > 0) {
            *from_disk = true;
            return fresh;
        }
        seq = fb_prefix_find(&s->prefix, job->tokens, reusable(job), whole, &common);
    }
    const struct fb_prefix_seq *found = seq >= 0 ? &s->prefix.seqs[seq] : NULL;
    if (found && !found->busy && found->n == common) { /* the prompt continues all of it */
        *n = common;
        return seq;
    }
    int fresh = make_empty(s, seq);
    *n = found ? forebay_seq_copy(s->session, seq, fresh, common) : 0;
    if (*n > 0) {
        fb_prefix_add(&s->prefix, fresh, found->tokens, *n);
    }
    return fresh;
}

void fb_sequences_start(struct fb_sequences *s, struct fb_active *active, struct fb_job *job)
{
    uint32_t n;
    bool from_disk;
    int seq = prepare(s, job, &n, &from_disk);
    *active = (struct fb_active){.job = job, .seq = seq, .n_done = n, .turn = ++s->turns};
    s->prefix.seqs[seq].busy = true;
    fb_prefix_touch(&s->prefix, seq);
    job->started_ns = fb_now_ns();
    job->result.n_reused = n;
    pthread_mutex_lock(&s->queue->lock);
    s->queue->stats.prompt_tokens_reused += n;
    s->queue->stats.prompt_tokens_from_disk += from_disk ? n : 0;
    pthread_mutex_unlock(&s->queue->lock);
}

/* --- Ending -------------------------------------------------------------------------------- */

static void finish(struct fb_sequences *s, struct fb_active *active, enum fb_end end)
{
    struct fb_job *job = active->job;
    uint64_t now = fb_now_ns(), first = job->first_ns ? job->first_ns : now;
    job->result.queue_s = (double)(job->started_ns - job->submitted_ns) * 1e-9;
    job->result.prompt_s = (double)(first - job->started_ns) * 1e-9;
    job->result.generate_s = (double)(now - first) * 1e-9;
    s->prefix.seqs[active->seq].busy = false;
    active->job = NULL;
    fb_job_queue_end(s->queue, job, end);
}

void fb_sequences_end(struct fb_sequences *s, struct fb_active *active, enum fb_end end)
{
    fb_prefix_touch(&s->prefix, active->seq);
    finish(s, active, end);
}

void fb_sequences_fail(
    struct fb_sequences *s, struct fb_active *active, const struct forebay_error *err)
{
    active->job->result.error = *err;
    empty(s, active->seq);
    finish(s, active, FB_END_FAILED);
}
