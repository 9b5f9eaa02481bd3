/*
 * kv_reuse.c - see kv_reuse.h. From the choice of a sequence to its end:
 *
 *      should_wait ---> start: exact if the job is alone, else everything that is there
 *                              (found in the cache, or loaded from disk) ---> note_pass, for each
 *                       pass that grew it ---> end, or fail
 *
 * A sequence is emptied only after its state has been stored, if it is worth that.
 */
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
    struct forebay_session *session, struct fb_kv_store *store, uint32_t ctx, uint32_t piece,
    int n_seq, int n_active_max)
{
    *s = (struct fb_sequences){
        .session = session,
        .ctx = ctx,
        .piece = piece,
        .cut_max = session ? forebay_seq_cut_max(session) : 0,
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

/* fb_prefix_find among the cells that are there now. */
static int find(struct fb_sequences *s, const struct fb_job *job, uint32_t piece, uint32_t *common)
{
    for (int i = 0; i < s->prefix.n_seq; i++) {
        s->prefix.seqs[i].shortest = forebay_seq_shortest(s->session, i);
    }
    return fb_prefix_find(&s->prefix, job->tokens, reusable(job), piece, common);
}

bool fb_sequences_should_wait(struct fb_sequences *s, const struct fb_job *job)
{
    uint32_t present;
    if (!forebay_seq_can_cut(s->session)) {
        return false;
    }
    find(s, job, 0, &present);
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

/* Whether a state may be of use later. If it cannot be cut, then for exact reuse only a whole one.
 * */
static bool is_worth_storing(const struct fb_sequences *s, const struct fb_prefix_seq *seq)
{
    return seq->n >= seq->n_stored + WORTH_STORING &&
           (s->piece == 0 || s->cut_max > 0 || seq->n_exact == seq->n);
}

/* Unless most of it is stored already. */
static void store(struct fb_sequences *s, int i)
{
    struct fb_prefix_seq *seq = &s->prefix.seqs[i];
    struct stored_sequence what = {s, i};
    struct forebay_error err;
    uint32_t common;
    if (!s->store || !is_worth_storing(s, seq)) {
        return;
    }
    fb_kv_store_find(s->store, seq->tokens, seq->n, s->cut_max, 0, &common);
    if (seq->n >= common + WORTH_STORING &&
        fb_kv_store_put(s->store, seq->tokens, seq->n, seq->n_exact, write_state, &what, &err) !=
            FOREBAY_OK) {
        fb_warn("cannot store the state of a conversation: %s", err.message);
    }
    seq->n_stored = seq->n;
}

bool fb_sequences_store_one(struct fb_sequences *s)
{
    for (int i = 0; s->store && i < s->prefix.n_seq; i++) {
        const struct fb_prefix_seq *seq = &s->prefix.seqs[i];
        if (!seq->busy && is_worth_storing(s, seq)) {
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

/* Stores and empties all sequences but `keep`, which may be -1. None may be busy. */
static void empty_others(struct fb_sequences *s, int keep)
{
    for (int i = 0; i < s->prefix.n_seq; i++) {
        if (i != keep && s->prefix.seqs[i].n > 0) {
            store(s, i);
            empty(s, i);
        }
    }
}

/* --- Starting ------------------------------------------------------------------------------ */

/* True if n more tokens fit into the cache, or nothing is left to evict. */
static bool has_room(const struct fb_sequences *s, uint32_t n)
{
    uint64_t cells = (uint64_t)s->ctx * (uint64_t)s->n_active_max, used = n;
    for (int i = 0; i < s->prefix.n_seq; i++) {
        used += s->prefix.seqs[i].n;
    }
    return used <= cells || fb_prefix_oldest(&s->prefix, -1) < 0;
}

/* Loads the stored state that shares most with the prompt into the empty sequence `seq`, whose
 * tokens and n_exact are set. False if no state could be loaded. */
static bool load_best(struct fb_sequences *s, const struct fb_job *job, int seq, uint32_t piece)
{
    for (;;) { /* evicting stores states, which may replace the one that was found: search again */
        uint32_t common;
        struct forebay_error err;
        int i = fb_kv_store_find(s->store, job->tokens, reusable(job), s->cut_max, piece, &common);
        const struct fb_kv_state *state = i >= 0 ? fb_kv_store_get(s->store, i) : NULL;
        const char *path = state && state->n <= s->ctx ? fb_kv_store_claim(s->store, i) : NULL;
        if (!path) {
            return false;
        }
        enum forebay_status status =
            forebay_seq_load(s->session, seq, state->tokens, state->n, path, state->bytes, &err);
        if (status == FOREBAY_OK) {
            fb_prefix_add(&s->prefix, seq, state->tokens, state->n);
            s->prefix.seqs[seq].n_stored = state->n;
            s->prefix.seqs[seq].n_exact = state->n_exact;
            fb_kv_store_release(s->store, i);
            return true;
        }
        if (status != FOREBAY_E_LLAMA || has_room(s, state->n)) { /* the file is at fault */
            fb_warn("%s", err.message);
            fb_kv_store_drop(s->store, i);
            return false;
        }
        fb_kv_store_release(s->store, i);
        fb_sequences_evict(s);
    }
}

/* The same, and cuts the sequence to what can be reused. Returns how many tokens. */
static uint32_t load(struct fb_sequences *s, const struct fb_job *job, int seq, uint32_t piece)
{
    if (!load_best(s, job, seq, piece)) {
        return 0;
    }
    const struct fb_prefix_seq *p = &s->prefix.seqs[seq];
    uint32_t common = fb_prefix_common(p->tokens, p->n, job->tokens, reusable(job));
    uint32_t exact = fb_prefix_exact(common, p->n_exact, piece);
    uint32_t length = exact > 0 ? forebay_seq_keep(s->session, seq, exact) : 0;
    if (length == 0) {
        empty(s, seq);
    }
    fb_prefix_cut(&s->prefix, seq, length);
    return length;
}

/* Makes the empty sequence `to` a copy of the first n tokens of `from`. Returns n, or 0. */
static uint32_t copy(struct fb_sequences *s, int from, int to, uint32_t n)
{
    const struct fb_prefix_seq *source = &s->prefix.seqs[from];
    uint32_t got = forebay_seq_copy(s->session, from, to, n);
    if (got > 0) {
        fb_prefix_add(&s->prefix, to, source->tokens, got);
        s->prefix.seqs[to].n_exact = source->n_exact < got ? source->n_exact : got;
    }
    return got;
}

static int find_stored(
    const struct fb_sequences *s, const struct fb_job *job, uint32_t piece, uint32_t *common)
{
    *common = 0;
    return s->store
               ? fb_kv_store_find(s->store, job->tokens, reusable(job), s->cut_max, piece, common)
               : -1;
}

/* Returns a sequence that holds the first *n tokens of the prompt and no others. */
static int prepare(struct fb_sequences *s, const struct fb_job *job, uint32_t *n, bool *from_disk)
{
    uint32_t common, stored;
    int seq = find(s, job, 0, &common), state = find_stored(s, job, 0, &stored);
    *from_disk = false;
    if (state >= 0 && stored >= common + WORTH_LOADING) {
        int fresh = make_empty(s, seq);
        s->prefix.seqs[fresh].busy = true; /* not to be evicted */
        *n = load(s, job, fresh, 0);
        s->prefix.seqs[fresh].busy = false;
        if (*n >= common && *n > 0) {
            *from_disk = true;
            return fresh;
        }
        seq = find(s, job, 0, &common);
    }
    const struct fb_prefix_seq *found = seq >= 0 ? &s->prefix.seqs[seq] : NULL;
    if (found && !found->busy && found->n == common) { /* the prompt continues all of it */
        *n = common;
        return seq;
    }
    int fresh = make_empty(s, seq);
    *n = found ? copy(s, seq, fresh, common) : 0;
    return fresh;
}

/* The same for a job that is alone, with exact reuse. The sequence is the only one in the cache: so
 * its cells are where they would be in a session of its own, and attention, which adds in the order
 * of cells, has the same results. */
static int prepare_exact(
    struct fb_sequences *s, const struct fb_job *job, uint32_t *n, bool *from_disk)
{
    uint32_t common, stored;
    int seq = find(s, job, s->piece, &common), state = find_stored(s, job, s->piece, &stored);
    *from_disk = state >= 0 && stored >= common + WORTH_LOADING;
    if (*from_disk || seq < 0) {
        empty_others(s, -1);
        *n = *from_disk ? load(s, job, 0, s->piece) : 0;
        *from_disk = *n > 0;
        return 0;
    }
    empty_others(s, seq);
    if (s->cut_max > 0) {
        store(s, seq); /* what is cut off is lost */
        *n = forebay_seq_keep(s->session, seq, common);
        fb_prefix_cut(&s->prefix, seq, *n);
        return seq;
    }
    int fresh = seq == 0; /* the original stays where its last piece began */
    *n = copy(s, seq, fresh, common);
    return fresh;
}

/* Whether no other job is computed, or about to be. */
static bool is_alone(struct fb_sequences *s)
{
    pthread_mutex_lock(&s->queue->lock);
    bool alone = s->queue->n_active == 1 && s->queue->n_waiting == 0;
    pthread_mutex_unlock(&s->queue->lock);
    return alone;
}

void fb_sequences_start(struct fb_sequences *s, struct fb_active *active, struct fb_job *job)
{
    uint32_t n;
    bool from_disk, exact = s->piece > 0 && is_alone(s);
    int seq = exact ? prepare_exact(s, job, &n, &from_disk) : prepare(s, job, &n, &from_disk);
    for (int i = 0; i < s->n_active_max && !exact; i++) {
        s->active[i].exact = false; /* not alone any more */
    }
    *active =
        (struct fb_active){.job = job, .seq = seq, .n_done = n, .turn = ++s->turns, .exact = exact};
    s->prefix.seqs[seq].busy = true;
    fb_prefix_touch(&s->prefix, seq);
    job->started_ns = fb_now_ns();
    job->result.n_reused = n;
    pthread_mutex_lock(&s->queue->lock);
    s->queue->stats.prompt_tokens_reused += n;
    s->queue->stats.prompt_tokens_from_disk += from_disk ? n : 0;
    pthread_mutex_unlock(&s->queue->lock);
}

void fb_sequences_note_pass(struct fb_sequences *s, struct fb_active *active, uint32_t n)
{
    struct fb_prefix_seq *seq = &s->prefix.seqs[active->seq];
    if (!active->exact || n != s->piece) {
        return;
    }
    FB_ASSERT(seq->n_exact + n == seq->n);
    seq->n_exact = seq->n;
    uint32_t last = reusable(active->job) / s->piece * s->piece; /* where the last piece begins */
    int spare = s->cut_max == 0 && seq->n == last ? fb_prefix_victim(&s->prefix, active->seq) : -1;
    if (spare >= 0) {
        store(s, spare);
        empty(s, spare);
        copy(s, active->seq, spare, last);
        fb_prefix_touch(&s->prefix, spare);
    }
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
