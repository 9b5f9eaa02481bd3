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
 *   V5  Every queue has a bound. A full one refuses (ST_BUSY) instead of waiting.
 */
#ifndef ST_SERVE_SERVICE_H
#define ST_SERVE_SERVICE_H

#include "strata.h"

struct st_service;
struct st_job;

struct st_service_options {
    int parallel;          /* jobs that are active at once: the model's n_seq */
    int queue_max;         /* jobs that may wait */
    const char *kv_dir;    /* where states are kept; NULL: nowhere */
    uint64_t kv_max_bytes; /* of that directory */
};

/* Starts the thread. The model and its session belong to it until st_service_free. */
enum strata_status st_service_new(struct strata_model *model,
    const struct st_service_options *options, struct st_service **out, struct strata_error *err);

/* No new jobs from here on; those that are there go on. */
void st_service_drain(struct st_service *service);
/* True when no job is waiting or active. */
bool st_service_is_empty(struct st_service *service);
/* Ends what is still there, keeps states on disk, ends the thread. All jobs must be released. */
void st_service_free(struct st_service *service);

/* V1: the tokens of prompts that a pass of `batch` takes at most while somebody generates. */
uint32_t st_service_piece(uint32_t batch);

/* --- Jobs ---------------------------------------------------------------------------------- */

enum st_refusal { ST_ACCEPTED, ST_BUSY, ST_DRAINING, ST_INVALID };

#define ST_TOP_MAX 20

struct st_job_options {
    const struct strata_prompt *prompt; /* shared with the job */
    struct strata_sampling sampling;
    int64_t n_predict; /* tokens; below 0: until the context is full */
    const char *const *stops;
    size_t n_stops;
    int n_top;          /* likeliest tokens to report with each; -1: no logprobs at all */
    const char *client; /* jobs of the same client take turns with those of others */
};

/* ST_INVALID with `err`: a prompt that is too long, sampling that cannot be. */
enum st_refusal st_service_submit(struct st_service *service, const struct st_job_options *options,
    struct st_job **out, struct strata_error *err);
/* Nobody wants it any more: ends it if it has not ended. */
void st_job_release(struct st_job *job);

/* One token's worth of a reply. */
struct st_piece {
    const char *text; /* may be "": part of a character, or held back; NUL-terminated */
    size_t length;
    int32_t token;
    float logprob;
    int n_top;
    const struct strata_logprob *top;
};

enum st_job_state { ST_JOB_PIECE, ST_JOB_TIMEOUT, ST_JOB_ENDED };

/* Waits for the next piece, at most so long. The piece is valid until the next call. */
enum st_job_state st_job_next(struct st_job *job, int timeout_ms, struct st_piece *piece);

/* The same, without taking it. */
enum st_job_state st_job_peek(struct st_job *job, int timeout_ms);

enum st_end { ST_END_STOP, ST_END_STRING, ST_END_LENGTH, ST_END_CANCELLED, ST_END_FAILED };

struct st_result {
    enum st_end end;
    const char *stop; /* the stop string; NULL: none */
    uint32_t n_prompt, n_reused, n_generated;
    double queue_s, prompt_s, generate_s;
    struct strata_error error; /* ST_END_FAILED */
};
/* Of a job that has ended. */
const struct st_result *st_job_result(const struct st_job *job);

/* --- Figures ------------------------------------------------------------------------------- */

struct st_service_stats {
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
    struct strata_stats model;
};
void st_service_stats(struct st_service *service, struct st_service_stats *out);

const struct strata_model *st_service_model(const struct st_service *service);

#endif
