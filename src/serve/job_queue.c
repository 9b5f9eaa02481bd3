#include "serve/job_queue.h"

#include "base/units.h"
#include "os/timed_wait.h"

void fb_job_queue_init(struct fb_job_queue *q, int waiting_max)
{
    *q = (struct fb_job_queue){.waiting_max = waiting_max};
    q->stats.queue_max = waiting_max;
    pthread_mutex_init(&q->lock, NULL);
    fb_timed_wait_init(&q->work);
}

void fb_job_queue_release(struct fb_job_queue *q)
{
    pthread_cond_destroy(&q->work);
    pthread_mutex_destroy(&q->lock);
}

/* --- Adding -------------------------------------------------------------------------------- */

/* With the lock held. */
static enum fb_refusal room_for_one(struct fb_job_queue *q)
{
    enum fb_refusal refusal = q->draining || q->quit           ? FB_DRAINING
                              : q->n_waiting >= q->waiting_max ? FB_BUSY
                                                               : FB_ACCEPTED;
    q->stats.refused += refusal != FB_ACCEPTED;
    return refusal;
}

enum fb_refusal fb_job_queue_check(struct fb_job_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stats.requests++;
    enum fb_refusal refusal = room_for_one(q);
    pthread_mutex_unlock(&q->lock);
    return refusal;
}

enum fb_refusal fb_job_queue_add(struct fb_job_queue *q, struct fb_job *job)
{
    pthread_mutex_lock(&q->lock);
    enum fb_refusal refusal = room_for_one(q);
    if (refusal == FB_ACCEPTED) {
        struct fb_job **at = &q->first;
        while (*at) {
            at = &(*at)->next;
        }
        *at = job;
        q->n_waiting++;
        pthread_cond_signal(&q->work);
    }
    pthread_mutex_unlock(&q->lock);
    return refusal;
}

/* --- Removing ------------------------------------------------------------------------------ */

void fb_job_queue_remove(struct fb_job_queue *q, struct fb_job *job)
{
    for (struct fb_job **at = &q->first; *at; at = &(*at)->next) {
        if (*at == job) {
            *at = job->next;
            job->next = NULL;
            q->n_waiting--;
            return;
        }
    }
}

/* With the lock held. */
static struct fb_job *first_unwanted(const struct fb_job_queue *q)
{
    struct fb_job *job = q->first;
    while (job && job->wanted && !q->quit) {
        job = job->next;
    }
    return job;
}

void fb_job_queue_cancel_unwanted(struct fb_job_queue *q)
{
    struct fb_job *job;
    pthread_mutex_lock(&q->lock);
    while ((job = first_unwanted(q))) {
        fb_job_queue_remove(q, job);
        q->stats.cancelled++;
        job->result.end = FB_END_CANCELLED;
        pthread_mutex_unlock(&q->lock);
        fb_job_end(job);
        pthread_mutex_lock(&q->lock);
    }
    pthread_mutex_unlock(&q->lock);
}

void fb_job_queue_end(struct fb_job_queue *q, struct fb_job *job, enum fb_end end)
{
    job->result.end = end;
    pthread_mutex_lock(&q->lock);
    q->n_active--;
    q->stats.failed += end == FB_END_FAILED;
    q->stats.cancelled += end == FB_END_CANCELLED;
    pthread_mutex_unlock(&q->lock);
    fb_job_end(job);
}

/* --- Waiting ------------------------------------------------------------------------------- */

void fb_job_queue_wait(struct fb_job_queue *q, int ms)
{
    uint64_t until = fb_now_ns() + (uint64_t)ms * 1000000u;
    pthread_mutex_lock(&q->lock);
    if (!q->quit && (q->n_active > 0 || !q->first)) {
        fb_timed_wait(&q->work, &q->lock, until);
    }
    pthread_mutex_unlock(&q->lock);
}

bool fb_job_queue_is_empty(struct fb_job_queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool empty = q->n_active == 0 && !q->first;
    pthread_mutex_unlock(&q->lock);
    return empty;
}
