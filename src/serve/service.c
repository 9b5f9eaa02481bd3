/*
 * service.c - the model's thread: which job is next, when to compute, when to store states.
 *
 *      cancel unwanted jobs --> activate waiting ones --> one pass --> again
 *                                                          '- no job can advance: wait, or, when no
 *                                                             job is active, store states on disk
 *
 * Jobs wait in job_queue.c; kv_reuse.c gives them sequences; passes.c advances them.
 */
#include "serve/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "serve/kv_reuse.h"
#include "serve/passes.h"

/* While a job generates, prompts get this share of a batch: other jobs wait that long for their
 * next token. Small pieces are expensive on a mixture of experts, as each reads nearly all
 * experts. */
#define PIECE_SHARE 4
#define PIECE_MIN   32

#define STORE_AFTER_NS (500 * (uint64_t)1000000) /* without an active job */
#define IDLE_WAIT_MS   200
#define PAUSE_WAIT_MS  20

struct fb_service {
    struct forebay_model *model;
    uint32_t ctx;
    pthread_t thread;
    struct fb_job_queue queue; /* shared with other threads; the rest is the model's thread's */
    struct fb_sequences sequences;
    struct fb_passes passes;
    uint64_t idle_ns; /* since when no job is active; 0: one is */
};

/* --- Activating ---------------------------------------------------------------------------- */

static int active_of(const struct fb_service *s, const char *client)
{
    int n = 0;
    for (int i = 0; i < s->sequences.n_active_max; i++) {
        const struct fb_job *job = s->sequences.active[i].job;
        n += job && strcmp(job->client, client) == 0;
    }
    return n;
}

/* The first waiting job of the client with the fewest active jobs. With the lock held. */
static struct fb_job *choose(struct fb_service *s)
{
    struct fb_job *best = NULL;
    int best_active = 0;
    for (struct fb_job *job = s->queue.first; job; job = job->next) {
        int active = active_of(s, job->client);
        if ((!best || active < best_active) && !fb_sequences_should_wait(&s->sequences, job)) {
            best = job;
            best_active = active;
        }
    }
    return best;
}

static void activate(struct fb_service *s)
{
    struct fb_active *active;
    while ((active = fb_sequences_find_free(&s->sequences))) {
        pthread_mutex_lock(&s->queue.lock);
        struct fb_job *job = choose(s);
        if (job) {
            fb_job_queue_remove(&s->queue, job);
            s->queue.n_active++;
        }
        pthread_mutex_unlock(&s->queue.lock);
        if (!job) {
            return;
        }
        fb_sequences_start(&s->sequences, active, job);
    }
}

/* --- The model's thread -------------------------------------------------------------------- */

static void publish_kv_stats(struct fb_service *s)
{
    const struct fb_sequences *q = &s->sequences;
    uint64_t used = 0, disk_bytes = 0;
    int disk_states = 0;
    for (int i = 0; i < q->prefix.n_seq; i++) {
        used += q->prefix.seqs[i].n;
    }
    if (q->store) {
        disk_bytes = fb_kv_store_bytes(q->store, &disk_states);
    }
    pthread_mutex_lock(&s->queue.lock);
    s->queue.stats.kv_cells_used = used;
    s->queue.stats.kv_disk_bytes = disk_bytes;
    s->queue.stats.kv_disk_states = disk_states;
    pthread_mutex_unlock(&s->queue.lock);
}

/* No job could advance: all are paused, or none is active. */
static void idle(struct fb_service *s)
{
    uint64_t now = fb_now_ns();
    if (s->queue.n_active > 0) { /* read without the lock: only this thread changes it */
        fb_job_queue_wait(&s->queue, PAUSE_WAIT_MS);
        return;
    }
    if (s->idle_ns == 0) { /* the last passes may not have been published */
        fb_passes_publish_stats(&s->passes);
    }
    s->idle_ns = s->idle_ns ? s->idle_ns : now;
    if (now - s->idle_ns < STORE_AFTER_NS || !fb_sequences_store_one(&s->sequences)) {
        fb_job_queue_wait(&s->queue, IDLE_WAIT_MS);
    }
    publish_kv_stats(s);
}

static void *work(void *arg)
{
    struct fb_service *s = arg;
    for (;;) {
        fb_job_queue_cancel_unwanted(&s->queue);
        activate(s);
        if (fb_passes_run(&s->passes)) {
            s->idle_ns = 0;
            publish_kv_stats(s);
            continue;
        }
        pthread_mutex_lock(&s->queue.lock);
        bool done = s->queue.quit && s->queue.n_active == 0 && !s->queue.first;
        pthread_mutex_unlock(&s->queue.lock);
        if (done) {
            break;
        }
        idle(s);
    }
    while (fb_sequences_store_one(&s->sequences)) {
    }
    return NULL;
}

/* --- Jobs ---------------------------------------------------------------------------------- */

enum fb_refusal fb_service_submit(struct fb_service *s, const struct fb_job_options *o,
    struct fb_job **out, struct forebay_error *err)
{
    struct fb_job *job = NULL;
    enum fb_refusal refusal = fb_job_queue_check(&s->queue);
    if (refusal != FB_ACCEPTED) {
        return refusal;
    }
    if (fb_job_new(s->model, s->ctx, o, &s->queue.lock, &s->queue.work, &job, err) != FOREBAY_OK) {
        return FB_INVALID;
    }
    refusal = fb_job_queue_add(&s->queue, job);
    if (refusal == FB_ACCEPTED) {
        *out = job;
    } else {
        fb_job_free(job);
    }
    return refusal;
}

/* --- Life ---------------------------------------------------------------------------------- */

static void release(struct fb_service *s)
{
    fb_sequences_release(&s->sequences);
    fb_passes_release(&s->passes);
    fb_job_queue_release(&s->queue);
    free(s);
}

uint32_t fb_service_piece(uint32_t batch)
{
    return (uint32_t)fb_max(batch / PIECE_SHARE, PIECE_MIN);
}

static enum forebay_status open_parts(struct fb_service *s, const struct fb_service_options *o,
    struct forebay_session **session, struct fb_kv_store **store, struct forebay_error *err)
{
    enum forebay_status status = forebay_session_new(s->model, session, err);
    uint64_t fingerprint;
    if (status == FOREBAY_OK && o->kv_dir) {
        status = forebay_state_fingerprint(s->model, &fingerprint, err);
    }
    if (status == FOREBAY_OK && o->kv_dir) {
        status = fb_kv_store_open(o->kv_dir, o->kv_max_bytes, fingerprint, store, err);
    }
    return status;
}

enum forebay_status fb_service_new(struct forebay_model *model, const struct fb_service_options *o,
    struct fb_service **out, struct forebay_error *err)
{
    struct fb_service *s = fb_xcalloc(1, sizeof *s);
    struct forebay_session *session = NULL;
    struct fb_kv_store *store = NULL;
    uint32_t batch = forebay_model_batch(model);
    int n_seq = (int)forebay_model_sequences(model);
    int parallel = (int)fb_min((uint64_t)o->parallel, batch);
    FB_ASSERT(o->parallel >= 1 && o->parallel < n_seq);
    s->model = model;
    s->ctx = forebay_model_ctx(model);
    enum forebay_status status = open_parts(s, o, &session, &store, err);
    fb_job_queue_init(&s->queue, o->queue_max);
    s->queue.stats.parallel = parallel;
    s->queue.stats.kv_cells = (uint64_t)s->ctx * (uint64_t)o->parallel;
    fb_sequences_init(&s->sequences, &s->queue, session, store, s->ctx, o->reuse_all ? 0 : batch,
        n_seq, parallel);
    fb_passes_init(&s->passes, model, &s->sequences, batch, fb_service_piece(batch));
    if (status == FOREBAY_OK) {
        fb_passes_publish_stats(&s->passes);
        publish_kv_stats(s);
        int errnum = pthread_create(&s->thread, NULL, work, s);
        if (errnum != 0) {
            status = fb_fail_errno(err, FOREBAY_E_NOMEM, errnum, "", "cannot start a thread");
        }
    }
    if (status != FOREBAY_OK) {
        release(s);
        return status;
    }
    *out = s;
    return FOREBAY_OK;
}

void fb_service_drain(struct fb_service *s)
{
    pthread_mutex_lock(&s->queue.lock);
    s->queue.draining = true;
    pthread_mutex_unlock(&s->queue.lock);
}

bool fb_service_is_empty(struct fb_service *s)
{
    return fb_job_queue_is_empty(&s->queue);
}

void fb_service_free(struct fb_service *s)
{
    if (s) {
        pthread_mutex_lock(&s->queue.lock);
        s->queue.quit = true;
        pthread_cond_signal(&s->queue.work);
        pthread_mutex_unlock(&s->queue.lock);
        pthread_join(s->thread, NULL);
        release(s);
    }
}

/* --- Statistics ---------------------------------------------------------------------------- */

void fb_service_stats(struct fb_service *s, struct fb_service_stats *out)
{
    uint64_t now = fb_now_ns();
    pthread_mutex_lock(&s->queue.lock);
    *out = s->queue.stats;
    out->waiting = s->queue.n_waiting;
    out->active = s->queue.n_active;
    out->draining = s->queue.draining;
    out->recent_tok_per_s = fb_rate_get(&s->queue.rate, now);
    pthread_mutex_unlock(&s->queue.lock);
}

const struct forebay_model *fb_service_model(const struct fb_service *s)
{
    return s->model;
}
