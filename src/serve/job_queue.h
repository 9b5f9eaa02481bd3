/*
 * job_queue.h - jobs that wait, and all else that the model's thread shares with other threads.
 *
 * One lock guards this struct and the fields of jobs that are marked (L) in job.h. It is never held
 * while the model computes or files are accessed; the longest use is choosing the next job, which
 * compares prompts. Fields may be accessed directly with the lock held; the functions below lock by
 * themselves, except where they say otherwise.
 *
 *      add --> waiting --start (service.c)--> active --end--> gone
 */
#ifndef FB_SERVE_JOB_QUEUE_H
#define FB_SERVE_JOB_QUEUE_H

#include "serve/job.h"
#include "serve/service_stats.h"

struct fb_job_queue {
    pthread_mutex_t lock;
    pthread_cond_t work; /* wakes the model's thread */

    struct fb_job *first; /* waiting, in order of arrival */
    int n_waiting, waiting_max;
    int n_active;  /* started and not ended; changed by the model's thread only */
    bool draining; /* no new jobs */
    bool quit;     /* no new jobs, and those that are there are cancelled */
    struct fb_service_stats stats;
    struct fb_rate rate; /* of generated tokens */
};

void fb_job_queue_init(struct fb_job_queue *queue, int waiting_max);
/* No job may be waiting or active. */
void fb_job_queue_release(struct fb_job_queue *queue);

/* Counts a request and returns what fb_job_queue_add would return now, so that no job need be made
 * for a request that is refused anyway. */
enum fb_refusal fb_job_queue_check(struct fb_job_queue *queue);
/* Appends a job and wakes the model's thread. If refused, the job still belongs to the caller. */
enum fb_refusal fb_job_queue_add(struct fb_job_queue *queue, struct fb_job *job);

/* Removes a job that is waiting; with the lock held. */
void fb_job_queue_remove(struct fb_job_queue *queue, struct fb_job *job);
/* Cancels waiting jobs that were released; all of them when quitting. */
void fb_job_queue_cancel_unwanted(struct fb_job_queue *queue);
/* An active job has ended: counts it, stores `end` in its result and informs its reader. The job
 * may be freed by this. */
void fb_job_queue_end(struct fb_job_queue *queue, struct fb_job *job, enum fb_end end);

/* Blocks the model's thread for at most `ms`: until fb_job_queue_add, or until a reader has read
 * all pieces of a job or released it. Returns at once if jobs are waiting and none is active. */
void fb_job_queue_wait(struct fb_job_queue *queue, int ms);
bool fb_job_queue_is_empty(struct fb_job_queue *queue);

#endif
