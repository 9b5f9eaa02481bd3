#include "serve/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/timed_wait.h"

struct fb_queued_piece {
    struct fb_queued_piece *next;
    struct fb_piece piece;
    struct forebay_logprob top[FB_TOP_MAX];
    char text[];
};

/* --- Life ---------------------------------------------------------------------------------- */

enum forebay_status fb_job_new(const struct forebay_model *model, uint32_t ctx,
    const struct fb_job_options *o, pthread_mutex_t *lock, pthread_cond_t *work,
    struct fb_job **out, struct forebay_error *err)
{
    size_t n;
    const int32_t *tokens = forebay_prompt_tokens(o->prompt, &n);
    if (n >= ctx) {
        return fb_fail(err, FOREBAY_E_CONTEXT, "Shorten it, or serve with a larger --ctx.",
            "the prompt has %zu tokens; at most %u fit into the context of %u", n, ctx - 1, ctx);
    }
    struct fb_job *job = fb_xcalloc(1, sizeof *job);
    job->lock = lock;
    job->work = work;
    job->last = &job->first;
    job->wanted = true;
    job->prompt = forebay_prompt_share(o->prompt);
    job->tokens = tokens;
    job->n_tokens = (uint32_t)n;
    job->n_predict = o->n_predict;
    job->n_top = o->n_top > FB_TOP_MAX ? FB_TOP_MAX : o->n_top;
    job->n_top =
        (int)fb_min((uint64_t)forebay_model_n_vocab(model), (uint64_t)(job->n_top + 1)) - 1;
    job->result.n_prompt = (uint32_t)n;
    job->submitted_ns = fb_now_ns();
    snprintf(job->client, sizeof job->client, "%s", o->client ? o->client : "");
    fb_timed_wait_init(&job->changed);
    enum forebay_status status =
        forebay_sampler_new(model, &o->sampling, o->prompt, &job->sampler, err);
    if (status == FOREBAY_OK) {
        status = forebay_text_new(model, o->prompt, o->stops, o->n_stops, &job->text, err);
    }
    if (status != FOREBAY_OK) {
        fb_job_free(job);
        return status;
    }
    for (size_t i = 0; i < n; i++) {
        forebay_sampler_accept(job->sampler, tokens[i]);
    }
    *out = job;
    return FOREBAY_OK;
}

void fb_job_free(struct fb_job *job)
{
    while (job->first) {
        struct fb_queued_piece *next = job->first->next;
        free(job->first);
        job->first = next;
    }
    free(job->current);
    forebay_sampler_free(job->sampler);
    forebay_text_free(job->text);
    forebay_prompt_free(job->prompt);
    pthread_cond_destroy(&job->changed);
    free(job);
}

void fb_job_release(struct fb_job *job)
{
    if (!job) {
        return;
    }
    pthread_mutex_lock(job->lock);
    bool ended = job->ended;
    job->wanted = false;
    pthread_cond_signal(job->work);
    pthread_mutex_unlock(job->lock);
    if (ended) {
        fb_job_free(job);
    }
}

/* --- The model's thread -------------------------------------------------------------------- */

void fb_job_push(struct fb_job *job, const char *text, size_t length, int32_t token, float logprob,
    const struct forebay_logprob *top)
{
    struct fb_queued_piece *q = fb_xcalloc(1, sizeof *q + length + 1);
    memcpy(q->text, text, length);
    q->piece = (struct fb_piece){q->text, length, token, logprob, 0, q->top};
    if (top && job->n_top > 0) {
        q->piece.n_top = job->n_top;
        memcpy(q->top, top, (size_t)job->n_top * sizeof *top);
    }
    pthread_mutex_lock(job->lock);
    *job->last = q;
    job->last = &q->next;
    job->unread_bytes += sizeof *q + length;
    pthread_cond_signal(&job->changed);
    pthread_mutex_unlock(job->lock);
}

void fb_job_end(struct fb_job *job)
{
    pthread_mutex_lock(job->lock);
    job->ended = true;
    bool wanted = job->wanted;
    pthread_cond_signal(&job->changed);
    pthread_mutex_unlock(job->lock);
    if (!wanted) {
        fb_job_free(job);
    }
}

/* --- The reader ---------------------------------------------------------------------------- */

/* Waits for a piece or the end. With the lock held. */
static enum fb_job_state wait(struct fb_job *job, int timeout_ms)
{
    uint64_t until = fb_now_ns() + (uint64_t)timeout_ms * 1000000u;
    bool in_time = true;
    while (!job->first && !job->ended && in_time) {
        in_time = fb_timed_wait(&job->changed, job->lock, until);
    }
    return job->first ? FB_JOB_PIECE : job->ended ? FB_JOB_ENDED : FB_JOB_TIMEOUT;
}

enum fb_job_state fb_job_peek(struct fb_job *job, int timeout_ms)
{
    pthread_mutex_lock(job->lock);
    enum fb_job_state state = wait(job, timeout_ms);
    pthread_mutex_unlock(job->lock);
    return state;
}

enum fb_job_state fb_job_next(struct fb_job *job, int timeout_ms, struct fb_piece *piece)
{
    free(job->current);
    job->current = NULL;
    pthread_mutex_lock(job->lock);
    enum fb_job_state state = wait(job, timeout_ms);
    if (state == FB_JOB_PIECE) {
        job->current = job->first;
        job->first = job->first->next;
        job->last = job->first ? job->last : &job->first;
        size_t before = job->unread_bytes;
        job->unread_bytes -= sizeof *job->current + job->current->piece.length;
        if (before > 0 && job->unread_bytes == 0) {
            pthread_cond_signal(job->work); /* the job may have been paused */
        }
        *piece = job->current->piece;
    }
    pthread_mutex_unlock(job->lock);
    return state;
}

const struct fb_result *fb_job_result(const struct fb_job *job)
{
    return &job->result;
}
