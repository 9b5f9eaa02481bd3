/* job.h - the inside of a job, shared by the threads that want it and the one that does it. */
#ifndef FB_SERVE_JOB_H
#define FB_SERVE_JOB_H

#include <pthread.h>

#include "serve/service.h"

struct fb_queued_piece {
    struct fb_queued_piece *next;
    struct fb_piece piece;
    struct forebay_logprob top[FB_TOP_MAX];
    char text[];
};

/* `lock` is the service's: it guards all that is marked (L). The rest belongs to the model's thread
 * until the job has ended. */
struct fb_job {
    pthread_mutex_t *lock;
    pthread_cond_t *work;   /* tells the model's thread that something changed */
    pthread_cond_t changed; /* (L) tells who waits for the job */

    struct fb_queued_piece *first, **last; /* (L) not yet taken */
    struct fb_queued_piece *taken;         /* of the reader */
    size_t unread_bytes;                   /* (L) */
    bool wanted;                           /* (L) not released */
    bool ended;                            /* (L) */

    struct forebay_prompt *prompt;
    const int32_t *tokens; /* of the prompt */
    uint32_t n_tokens;
    char client[64];
    int64_t n_predict;
    int n_top;
    struct forebay_sampler *sampler;
    struct forebay_text *text;
    struct fb_result result;
    uint64_t submitted_ns, started_ns, first_ns; /* 0: not yet */
    uint64_t unread_ns;                          /* since when nobody reads */
    struct fb_job *next;                         /* (L) in the queue */
};

/* A piece for the reader. `text` may be NULL. */
void fb_job_give(struct fb_job *job, const char *text, size_t length, int32_t token, float logprob,
    const struct forebay_logprob *top);
/* No more pieces come. */
void fb_job_end(struct fb_job *job);
void fb_job_free(struct fb_job *job);

#endif
