#include "serve/job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

void fb_job_give(struct fb_job *job, const char *text, size_t length, int32_t token, float logprob,
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

void fb_job_free(struct fb_job *job)
{
    while (job->first) {
        struct fb_queued_piece *next = job->first->next;
        free(job->first);
        job->first = next;
    }
    free(job->taken);
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

static struct timespec deadline(int timeout_ms)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC); /* the clock of pthread_cond_timedwait, also on macOS */
    t.tv_sec += timeout_ms / 1000;
    t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* Waits for something to be there. With the lock held. */
static enum fb_job_state wait(struct fb_job *job, int timeout_ms)
{
    struct timespec until = deadline(timeout_ms);
    int rc = 0;
    while (!job->first && !job->ended && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&job->changed, job->lock, &until);
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
    free(job->taken);
    job->taken = NULL;
    pthread_mutex_lock(job->lock);
    enum fb_job_state state = wait(job, timeout_ms);
    if (state == FB_JOB_PIECE) {
        job->taken = job->first;
        job->first = job->first->next;
        job->last = job->first ? job->last : &job->first;
        size_t before = job->unread_bytes;
        job->unread_bytes -= sizeof *job->taken + job->taken->piece.length;
        if (before > 0 && job->unread_bytes == 0) {
            pthread_cond_signal(job->work); /* it may have paused for us */
        }
        *piece = job->taken->piece;
    }
    pthread_mutex_unlock(job->lock);
    return state;
}

const struct fb_result *fb_job_result(const struct fb_job *job)
{
    return &job->result;
}
