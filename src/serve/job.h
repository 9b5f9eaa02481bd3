/* job.h - the inside of a job, shared by the threads that want it and the one that does it. */
#ifndef ST_SERVE_JOB_H
#define ST_SERVE_JOB_H

#include <pthread.h>

#include "serve/service.h"

struct st_queued_piece {
    struct st_queued_piece *next;
    struct st_piece piece;
    struct strata_logprob top[ST_TOP_MAX];
    char text[];
};

/* `lock` is the service's: it guards all that is marked (L). The rest belongs to the model's thread
 * until the job has ended. */
struct st_job {
    pthread_mutex_t *lock;
    pthread_cond_t *work;   /* tells the model's thread that something changed */
    pthread_cond_t changed; /* (L) tells who waits for the job */

    struct st_queued_piece *first, **last; /* (L) not yet taken */
    struct st_queued_piece *taken;         /* of the reader */
    size_t unread_bytes;                   /* (L) */
    bool wanted;                           /* (L) not released */
    bool ended;                            /* (L) */

    struct strata_prompt *prompt;
    const int32_t *tokens; /* of the prompt */
    uint32_t n_tokens;
    char client[64];
    int64_t n_predict;
    int n_top;
    struct strata_sampler *sampler;
    struct strata_text *text;
    struct st_result result;
    uint64_t submitted_ns, started_ns, first_ns; /* 0: not yet */
    uint64_t unread_ns;                          /* since when nobody reads */
    struct st_job *next;                         /* (L) in the queue */
};

/* A piece for the reader. `text` may be NULL. */
void st_job_give(struct st_job *job, const char *text, size_t length, int32_t token, float logprob,
    const struct strata_logprob *top);
/* No more pieces come. */
void st_job_end(struct st_job *job);
void st_job_free(struct st_job *job);

#endif
