/*
 * service.h - many requests on one model: what a server does, without HTTP.
 *
 * One thread owns the model. Others hand it jobs and take pieces of text from them:
 *
 *      submit --> waiting --fair--> active: prompt, in pieces --> generating --> ended
 *                                     |  all active jobs advance in one pass of the model
 *                                     '- begins with what the KV cache, or the disk, has of its prompt
 *
 * Rules
 *   V1  A pass holds a token of every generating job, and pieces of prompts. Passes with long pieces
 *       take at most half of the time while somebody is generating.
 *   V2  What two prompts have in common is computed once, also when they come at the same time.
 *   V3  A job that nobody reads is not computed further; one that nobody wants ends.
 *   V4  A failure ends the jobs that were in the pass; the service goes on.
 *   V5  Every queue has a bound. A full one refuses (FB_BUSY) instead of waiting.
 */
#ifndef FB_SERVE_SERVICE_H
#define FB_SERVE_SERVICE_H

#include "forebay.h"

struct fb_service;
struct fb_job;

struct fb_service_options {
    int parallel;          /* jobs that are active at once: the model's n_seq */
    int queue_max;         /* jobs that may wait */
    const char *kv_dir;    /* where states are kept; NULL: nowhere */
    uint64_t kv_max_bytes; /* of that directory */
};

/* Starts the thread. The model and its session belong to it until fb_service_free. */
enum forebay_status fb_service_new(struct forebay_model *model,
    const struct fb_service_options *options, struct fb_service **out, struct forebay_error *err);

/* No new jobs from here on; those that are there go on. */
void fb_service_drain(struct fb_service *service);
/* True when no job is waiting or active. */
bool fb_service_is_empty(struct fb_service *service);
/* Ends what is still there, keeps states on disk, ends the thread. All jobs must be released. */
void fb_service_free(struct fb_service *service);

/* V1: the tokens of prompts that a pass of `batch` takes at most while somebody generates. */
uint32_t fb_service_piece(uint32_t batch);

/* --- Jobs ---------------------------------------------------------------------------------- */

enum fb_refusal { FB_ACCEPTED, FB_BUSY, FB_DRAINING, FB_INVALID };

#define FB_TOP_MAX 20

struct fb_job_options {
    const struct forebay_prompt *prompt; /* shared with the job */
    struct forebay_sampling sampling;
    int64_t n_predict; /* tokens; below 0: until the context is full */
    const char *const *stops;
    size_t n_stops;
    int n_top;          /* likeliest tokens to report with each; -1: no logprobs at all */
    const char *client; /* jobs of the same client take turns with those of others */
};

/* FB_INVALID with `err`: a prompt that is too long, sampling that cannot be. */
enum fb_refusal fb_service_submit(struct fb_service *service, const struct fb_job_options *options,
    struct fb_job **out, struct forebay_error *err);
/* Nobody wants it any more: ends it if it has not ended. */
void fb_job_release(struct fb_job *job);

/* One token's worth of a reply. */
struct fb_piece {
    const char *text; /* may be "": part of a character, or held back; NUL-terminated */
    size_t length;
    int32_t token;
    float logprob;
    int n_top;
    const struct forebay_logprob *top;
};

enum fb_job_state { FB_JOB_PIECE, FB_JOB_TIMEOUT, FB_JOB_ENDED };

/* Waits for the next piece, at most so long. The piece is valid until the next call. */
enum fb_job_state fb_job_next(struct fb_job *job, int timeout_ms, struct fb_piece *piece);

/* The same, without taking it. */
enum fb_job_state fb_job_peek(struct fb_job *job, int timeout_ms);

enum fb_end { FB_END_STOP, FB_END_STRING, FB_END_LENGTH, FB_END_CANCELLED, FB_END_FAILED };

struct fb_result {
    enum fb_end end;
    const char *stop; /* the stop string; NULL: none */
    uint32_t n_prompt, n_reused, n_generated;
    double queue_s, prompt_s, generate_s;
    struct forebay_error error; /* FB_END_FAILED */
};
/* Of a job that has ended. */
const struct fb_result *fb_job_result(const struct fb_job *job);

/* --- Figures ------------------------------------------------------------------------------- */

struct fb_service_stats {
    uint64_t requests, refused, failed, cancelled;
    uint64_t prompt_tokens_computed, prompt_tokens_reused, prompt_tokens_from_disk;
    uint64_t generated_tokens;
    uint64_t passes, decode_passes, decode_rows;
    double busy_s, decode_s;
    double recent_tok_per_s; /* of the last seconds */
    int waiting, active, parallel, queue_max;
    uint64_t kv_cells_used, kv_cells;
    uint64_t kv_disk_bytes;
    int kv_disk_states;
    bool draining;
    struct forebay_stats model;
};
void fb_service_stats(struct fb_service *service, struct fb_service_stats *out);

const struct forebay_model *fb_service_model(const struct fb_service *service);

#endif
