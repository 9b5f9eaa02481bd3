/*
 * service.h - many requests on one model: a server without HTTP.
 *
 * One thread owns the model. Other threads submit jobs and read pieces of text from them (job.h):
 *
 *      submit --> waiting --fair--> active: prompt, in pieces --> generating --> ended
 *                                     |  all active jobs advance in one pass of the model
 *                                     '- starts with the part of its prompt that is in the KV cache
 *                                        or on disk
 *
 * Rules
 *   SV1  A pass holds a token of every generating job, and pieces of prompts. While a job
 *        generates, passes with pieces of prompts take at most half of the time.
 *   SV2  The common beginning of two prompts is computed once, even if both arrive together.
 *   SV3  A job whose reader falls behind is paused, and cancelled after a minute. A released job
 *        is cancelled.
 *   SV4  A failure ends the jobs of its pass; the service goes on.
 *   SV5  Every queue has a bound. A full one refuses (FB_BUSY) instead of blocking.
 * SV6 A greedy job that is alone from its start to its end has the answer of a session of its own
 *        (`forebay run`), whatever it reuses. kv_reuse.h says how, docs/SERVE.md the exceptions.
 *
 * All functions may be called from any thread; fb_service_free only when no other call is under
 * way.
 */
#ifndef FB_SERVE_SERVICE_H
#define FB_SERVE_SERVICE_H

#include "forebay.h"
#include "serve/job.h"
#include "serve/service_stats.h"

struct fb_service;

struct fb_service_options {
    int parallel;          /* maximum active jobs; fewer than the model has sequences */
    int queue_max;         /* maximum waiting jobs */
    const char *kv_dir;    /* directory for states of conversations; NULL: none is stored */
    uint64_t kv_max_bytes; /* bound of that directory */
    bool reuse_all;        /* jobs that are alone, too, reuse all that is computed: not SV6 */
};

/* Starts the service and its thread, which uses the model until fb_service_free. E_IO: kv_dir
 * cannot be used. E_NOMEM: no memory for a session, or no thread. */
enum forebay_status fb_service_new(struct forebay_model *model,
    const struct fb_service_options *options, struct fb_service **out, struct forebay_error *err);

/* Refuses new jobs (FB_DRAINING); waiting and active ones continue. */
void fb_service_drain(struct fb_service *service);
/* True if no job is waiting or active. */
bool fb_service_is_empty(struct fb_service *service);
/* Cancels all jobs, stores states on disk, and ends the thread; blocks for the current pass. All
 * jobs must have been released. NULL is ignored. */
void fb_service_free(struct fb_service *service);

/* Blocks only to compile the sampling options (grammars). FB_INVALID with `err`: the
 * prompt is too long or the sampling options are invalid. Otherwise `err` is untouched. */
enum fb_refusal fb_service_submit(struct fb_service *service, const struct fb_job_options *options,
    struct fb_job **out, struct forebay_error *err);

void fb_service_stats(struct fb_service *service, struct fb_service_stats *out);
const struct forebay_model *fb_service_model(const struct fb_service *service);

/* SV1: maximum tokens of prompts in a pass of `batch` while a job generates. */
uint32_t fb_service_piece(uint32_t batch);

#endif
