/*
 * job.h - one reply to compute, shared by the thread that reads it and the one that computes it.
 *
 *      reader (an HTTP thread):    peek, next ... until FB_JOB_ENDED, result, release
 *      the model's thread:         fb_job_push for each piece, then fb_job_end
 *
 * Pieces wait in a queue between the two; unread_bytes is its size, by which the model's thread
 * pauses a job that is not read. The job is freed when it has both ended and been released.
 */
#ifndef FB_SERVE_JOB_H
#define FB_SERVE_JOB_H

#include <pthread.h>

#include "forebay.h"

#define FB_TOP_MAX 20

struct fb_job_options {
    const struct forebay_prompt *prompt; /* the job becomes one of its owners */
    struct forebay_sampling sampling;
    int64_t n_predict;        /* maximum tokens to generate; below 0: until the context is full */
    const char *const *stops; /* copied */
    size_t n_stops;
    int n_top;          /* likeliest tokens to report with each, to FB_TOP_MAX; -1: no logprobs */
    const char *client; /* jobs of one client take turns with those of others; NULL: "" */
};

/* Why a job was not accepted: the queue is full, the service is ending, the options are invalid. */
enum fb_refusal { FB_ACCEPTED, FB_BUSY, FB_DRAINING, FB_INVALID };

/* One token of a reply. */
struct fb_piece {
    const char *text; /* NUL-terminated; "" while it is held back or part of a character */
    size_t length;
    int32_t token; /* -1: text that was held back, at the end of the reply */
    float logprob;
    int n_top;
    const struct forebay_logprob *top;
};

/* FB_JOB_TIMEOUT: neither a piece nor the end within the time. */
enum fb_job_state { FB_JOB_PIECE, FB_JOB_TIMEOUT, FB_JOB_ENDED };

enum fb_end { FB_END_STOP, FB_END_STRING, FB_END_LENGTH, FB_END_CANCELLED, FB_END_FAILED };

struct fb_result {
    enum fb_end end;
    const char *stop; /* the stop string that was found; NULL: none */
    uint32_t n_prompt, n_reused, n_generated;
    double queue_s, prompt_s, generate_s;
    struct forebay_error error; /* FB_END_FAILED */
};

struct fb_queued_piece;

/* Fields marked (L) are guarded by `lock`, which belongs to the job queue. All others belong to the
 * model's thread until the job has ended, and to its reader afterwards. */
struct fb_job {
    pthread_mutex_t *lock;
    pthread_cond_t *work;   /* wakes the model's thread */
    pthread_cond_t changed; /* wakes the reader */

    struct fb_queued_piece *first, **last; /* (L) not yet read */
    struct fb_queued_piece *current;       /* the reader's: returned by the last fb_job_next */
    size_t unread_bytes;                   /* (L) */
    bool wanted;                           /* (L) not released */
    bool ended;                            /* (L) */
    struct fb_job *next;                   /* (L) in the job queue */

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
    uint64_t unread_ns;                          /* since when too much is unread; 0: it is not */
};

/* --- For the reader. One thread at a time -------------------------------------------------- */

/* Waits at most `timeout_ms` for the next piece and removes it from the queue. *piece is valid
 * until the next call or release. */
enum fb_job_state fb_job_next(struct fb_job *job, int timeout_ms, struct fb_piece *piece);
/* The same, but the piece stays in the queue. */
enum fb_job_state fb_job_peek(struct fb_job *job, int timeout_ms);
/* The result of a job that has ended; valid until release. */
const struct fb_result *fb_job_result(const struct fb_job *job);
/* The reply is no longer wanted: cancels the job unless it has ended. NULL is ignored. */
void fb_job_release(struct fb_job *job);

/* --- For the service ----------------------------------------------------------------------- */

/* Makes a job of the options; `lock` and `work` must outlive it. Any thread. E_USAGE: the prompt
 * does not fit into `ctx` tokens, or the sampling options are invalid. */
enum forebay_status fb_job_new(const struct forebay_model *model, uint32_t ctx,
    const struct fb_job_options *options, pthread_mutex_t *lock, pthread_cond_t *work,
    struct fb_job **out, struct forebay_error *err);
/* Frees a job that no other thread knows. */
void fb_job_free(struct fb_job *job);

/* Appends a piece for the reader. `top`: n_top entries. `lock` must not be held. */
void fb_job_push(struct fb_job *job, const char *text, size_t length, int32_t token, float logprob,
    const struct forebay_logprob *top);
/* No more pieces will follow. Frees the job if it has been released: do not touch it afterwards.
 * `lock` must not be held. */
void fb_job_end(struct fb_job *job);

#endif
