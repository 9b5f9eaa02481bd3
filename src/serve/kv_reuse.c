/*
 * kv_reuse.c - sequences for jobs.
 *
 * A new job takes over an idle sequence that its prompt continues; or gets a copy of what an idle or
 * busy one has in common with it (copies share the cache's cells); or a state from the disk when
 * that has more; or begins anew.
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "serve/internal.h"

/* Less in common is not worth waiting for, nor a copy of a state from disk, nor writing one. */
#define WORTH_WAITING 32
#define WORTH_LOADING 16
#define WORTH_SAVING  32

/* --- Choosing ------------------------------------------------------------------------------ */

/* At least one token of a prompt must be evaluated: its row is needed. */
static uint32_t reusable(const struct fb_job *job)
{
    return job->n_tokens - 1;
}

bool fb_slots_should_wait(const struct fb_service *s, const struct fb_job *job)
{
    uint32_t have;
    if (!forebay_seq_can_cut(s->session)) {
        return false;
    }
    fb_prefix_find(&s->prefix, job->tokens, reusable(job), false, &have);
    for (int i = 0; i < s->parallel; i++) {
        const struct fb_slot *slot = &s->slots[i];
        if (slot->job && !slot->generating) {
            uint32_t common = fb_prefix_common(
                slot->job->tokens, slot->job->n_tokens, job->tokens, reusable(job));
            if (common > slot->n_done && common >= have + WORTH_WAITING) {
                return true;
            }
        }
    }
    return false;
}

struct fb_slot *fb_slots_free_one(struct fb_service *s)
{
    for (int i = 0; i < s->parallel; i++) {
        if (!s->slots[i].job) {
            return &s->slots[i];
        }
    }
    return NULL;
}

/* --- Disk ---------------------------------------------------------------------------------- */

struct writing {
    struct fb_service *service;
    int seq;
};

static enum forebay_status write_state(void *user, const char *path, struct forebay_error *err)
{
    struct writing *w = user;
    const struct fb_prefix_seq *seq = &w->service->prefix.seqs[w->seq];
    return forebay_seq_save(w->service->session, w->seq, seq->tokens, seq->n, path, err);
}

static void save(struct fb_service *s, int i)
{
    struct fb_prefix_seq *seq = &s->prefix.seqs[i];
    struct writing writing = {s, i};
    struct forebay_error err;
    uint32_t common;
    if (!s->store || seq->n < seq->n_saved + WORTH_SAVING) {
        return;
    }
    fb_kv_store_find(s->store, seq->tokens, seq->n, false, &common);
    if (seq->n >= common + WORTH_SAVING &&
        fb_kv_store_put(s->store, seq->tokens, seq->n, write_state, &writing, &err) != FOREBAY_OK) {
        fb_warn("a state is not kept: %s", err.message);
    }
    seq->n_saved = seq->n;
}

bool fb_slots_save_one(struct fb_service *s)
{
    for (int i = 0; s->store && i < s->prefix.n_seq; i++) {
        const struct fb_prefix_seq *seq = &s->prefix.seqs[i];
        if (!seq->busy && seq->n >= seq->n_saved + WORTH_SAVING) {
            save(s, i);
            return true;
        }
    }
    return false;
}

/* --- Emptying ------------------------------------------------------------------------------ */

static void empty(struct fb_service *s, int seq)
{
    forebay_seq_keep(s->session, seq, 0);
    fb_prefix_cut(&s->prefix, seq, 0);
}

bool fb_slots_evict(struct fb_service *s)
{
    int oldest = fb_prefix_oldest(&s->prefix, -1);
    if (oldest >= 0) {
        save(s, oldest);
        empty(s, oldest);
    }
    return oldest >= 0;
}

/* An empty sequence. There is always one: no more are busy than jobs are active. */
static int make_empty(struct fb_service *s, int keep)
{
    int seq = fb_prefix_victim(&s->prefix, keep);
    FB_ASSERT(seq >= 0);
    save(s, seq);
    empty(s, seq);
    return seq;
}

/* --- Starting ------------------------------------------------------------------------------ */

/* Puts the state on the disk that has most in common with the prompt into an empty sequence. NULL
 * when there is none that can be taken up. */
static const int32_t *take_up(struct fb_service *s, const struct fb_job *job, int seq, uint32_t *n)
{
    bool whole = !forebay_seq_can_cut(s->session);
    for (;;) { /* what is evicted is stored, too, perhaps in the place of what had been found */
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
        if (!fb_slots_evict(s)) { /* so it was not for want of room */
            fb_warn("%s", err.message);
            fb_kv_store_drop(s->store, state);
            return NULL;
        }
    }
}

/* The same. Returns how much of it the prompt begins with. */
static uint32_t load(struct fb_service *s, const struct fb_job *job, int seq)
{
    uint32_t n;
    const int32_t *tokens = take_up(s, job, seq, &n);
    if (!tokens) {
        return 0;
    }
    fb_prefix_add(&s->prefix, seq, tokens, n);
    s->prefix.seqs[seq].n_saved = n;
    uint32_t common = fb_prefix_common(tokens, n, job->tokens, reusable(job));
    uint32_t kept = forebay_seq_keep(s->session, seq, common);
    fb_prefix_cut(&s->prefix, seq, kept);
    return kept;
}

/* A sequence that begins as the prompt does; *n tokens of it. */
static int begin(struct fb_service *s, const struct fb_job *job, uint32_t *n, bool *from_disk)
{
    bool whole = !forebay_seq_can_cut(s->session);
    uint32_t common, stored = 0;
    int seq = fb_prefix_find(&s->prefix, job->tokens, reusable(job), whole, &common);
    int state =
        s->store ? fb_kv_store_find(s->store, job->tokens, reusable(job), whole, &stored) : -1;
    *from_disk = false;
    if (state >= 0 && stored >= common + WORTH_LOADING) {
        int fresh = make_empty(s, seq);
        s->prefix.seqs[fresh].busy = true;
        *n = load(s, job, fresh);
        s->prefix.seqs[fresh].busy = false;
        if (*n >= common && *n > 0) {
            *from_disk = true;
            return fresh;
        }
        seq = fb_prefix_find(&s->prefix, job->tokens, reusable(job), whole, &common);
    }
    const struct fb_prefix_seq *found = seq >= 0 ? &s->prefix.seqs[seq] : NULL;
    if (found && !found->busy && found->n == common) { /* it goes on where that one ended */
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

void fb_slots_start(struct fb_service *s, struct fb_slot *slot, struct fb_job *job)
{
    uint32_t n;
    bool from_disk;
    int seq = begin(s, job, &n, &from_disk);
    *slot = (struct fb_slot){.job = job, .seq = seq, .n_done = n, .turn = ++s->turns};
    s->prefix.seqs[seq].busy = true;
    fb_prefix_touch(&s->prefix, seq);
    job->started_ns = fb_now_ns();
    job->result.n_reused = n;
    pthread_mutex_lock(&s->lock);
    s->stats.prompt_tokens_reused += n;
    s->stats.prompt_tokens_from_disk += from_disk ? n : 0;
    pthread_mutex_unlock(&s->lock);
}

/* --- Ending -------------------------------------------------------------------------------- */

static void finish(struct fb_service *s, struct fb_slot *slot, enum fb_end end)
{
    struct fb_job *job = slot->job;
    uint64_t now = fb_now_ns(), first = job->first_ns ? job->first_ns : now;
    job->result.end = end;
    job->result.queue_s = (double)(job->started_ns - job->submitted_ns) * 1e-9;
    job->result.prompt_s = (double)(first - job->started_ns) * 1e-9;
    job->result.generate_s = (double)(now - first) * 1e-9;
    s->prefix.seqs[slot->seq].busy = false;
    slot->job = NULL;
    pthread_mutex_lock(&s->lock);
    s->n_active--;
    s->stats.failed += end == FB_END_FAILED;
    s->stats.cancelled += end == FB_END_CANCELLED;
    pthread_mutex_unlock(&s->lock);
    fb_job_end(job);
}

void fb_slots_end(struct fb_service *s, struct fb_slot *slot, enum fb_end end)
{
    fb_prefix_touch(&s->prefix, slot->seq);
    finish(s, slot, end);
}

void fb_slots_fail(struct fb_service *s, struct fb_slot *slot, const struct forebay_error *err)
{
    slot->job->result.error = *err;
    empty(s, slot->seq);
    finish(s, slot, FB_END_FAILED);
}
