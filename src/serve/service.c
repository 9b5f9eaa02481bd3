#include "serve/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "serve/internal.h"

#define SAVE_AFTER_NS (500 * (uint64_t)1000000) /* of idleness */
#define IDLE_WAIT_MS  200
#define PAUSE_WAIT_MS 20

/* --- The queue (with the lock held) -------------------------------------------------------- */

static void unlink_job(struct fb_service *s, struct fb_job *job)
{
    for (struct fb_job **at = &s->waiting; *at; at = &(*at)->next) {
        if (*at == job) {
            *at = job->next;
            job->next = NULL;
            s->n_waiting--;
            return;
        }
    }
}

static int active_of(const struct fb_service *s, const char *client)
{
    int n = 0;
    for (int i = 0; i < s->parallel; i++) {
        n += s->slots[i].job && strcmp(s->slots[i].job->client, client) == 0;
    }
    return n;
}

/* Who is next: of the clients that wait, one with the fewest active jobs; of its jobs, the first. */
static struct fb_job *choose(struct fb_service *s)
{
    struct fb_job *best = NULL;
    int best_active = 0;
    for (struct fb_job *job = s->waiting; job; job = job->next) {
        int active = active_of(s, job->client);
        if ((!best || active < best_active) && !fb_slots_should_wait(s, job)) {
            best = job;
            best_active = active;
        }
    }
    return best;
}

static struct fb_job *first_unwanted(const struct fb_service *s)
{
    struct fb_job *job = s->waiting;
    while (job && job->wanted && !s->quit) {
        job = job->next;
    }
    return job;
}

/* --- The model's thread -------------------------------------------------------------------- */

static void drop_unwanted(struct fb_service *s)
{
    struct fb_job *job;
    pthread_mutex_lock(&s->lock);
    while ((job = first_unwanted(s))) {
        unlink_job(s, job);
        s->stats.cancelled++;
        job->result.end = FB_END_CANCELLED;
        pthread_mutex_unlock(&s->lock);
        fb_job_end(job);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

static void admit(struct fb_service *s)
{
    struct fb_slot *slot;
    while ((slot = fb_slots_free_one(s))) {
        pthread_mutex_lock(&s->lock);
        struct fb_job *job = choose(s);
        if (job) {
            unlink_job(s, job);
            s->n_active++;
        }
        pthread_mutex_unlock(&s->lock);
        if (!job) {
            return;
        }
        fb_slots_start(s, slot, job);
    }
}

static void update_idle_stats(struct fb_service *s)
{
    uint64_t used = 0;
    for (int i = 0; i < s->prefix.n_seq; i++) {
        used += s->prefix.seqs[i].n;
    }
    pthread_mutex_lock(&s->lock);
    s->stats.kv_cells_used = used;
    if (s->store) {
        s->stats.kv_disk_bytes = fb_kv_store_bytes(s->store, &s->stats.kv_disk_states);
    }
    pthread_mutex_unlock(&s->lock);
}

static void wait_for_work(struct fb_service *s, int ms)
{
    struct timespec until;
    timespec_get(&until, TIME_UTC);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->lock);
    if (!s->quit && (s->n_active > 0 || !s->waiting)) {
        pthread_cond_timedwait(&s->work, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Nothing could be computed: everybody is paused, or there is nobody. */
static void idle(struct fb_service *s)
{
    uint64_t now = fb_now_ns();
    if (s->n_active > 0) { /* only this thread changes it */
        wait_for_work(s, PAUSE_WAIT_MS);
        return;
    }
    if (s->idle_ns == 0) { /* the last pass may have left them behind */
        pthread_mutex_lock(&s->lock);
        forebay_stats_get(s->session, &s->stats.model);
        pthread_mutex_unlock(&s->lock);
    }
    s->idle_ns = s->idle_ns ? s->idle_ns : now;
    if (now - s->idle_ns < SAVE_AFTER_NS || !fb_slots_save_one(s)) {
        wait_for_work(s, IDLE_WAIT_MS);
    }
    update_idle_stats(s);
}

static void *work(void *arg)
{
    struct fb_service *s = arg;
    for (;;) {
        drop_unwanted(s);
        admit(s);
        if (fb_service_pass(s)) {
            s->idle_ns = 0;
            update_idle_stats(s);
            continue;
        }
        pthread_mutex_lock(&s->lock);
        bool done = s->quit && s->n_active == 0 && !s->waiting;
        pthread_mutex_unlock(&s->lock);
        if (done) {
            break;
        }
        idle(s);
    }
    while (fb_slots_save_one(s)) {
    }
    return NULL;
}

/* --- Jobs ---------------------------------------------------------------------------------- */

static enum forebay_status new_job(struct fb_service *s, const struct fb_job_options *o,
    struct fb_job **out, struct forebay_error *err)
{
    size_t n;
    const int32_t *tokens = forebay_prompt_tokens(o->prompt, &n);
    if (n >= s->ctx) {
        return fb_fail(err, FOREBAY_E_USAGE, "Shorten it, or serve with a larger --ctx.",
            "the prompt has %zu tokens; with a context of %u at most %u fit", n, s->ctx,
            s->ctx - 1);
    }
    struct fb_job *job = fb_xcalloc(1, sizeof *job);
    job->lock = &s->lock;
    job->work = &s->work;
    job->last = &job->first;
    job->wanted = true;
    job->prompt = forebay_prompt_share(o->prompt);
    job->tokens = tokens;
    job->n_tokens = (uint32_t)n;
    job->n_predict = o->n_predict;
    job->n_top = o->n_top > FB_TOP_MAX ? FB_TOP_MAX : o->n_top;
    job->n_top =
        (int)fb_min((uint64_t)forebay_model_n_vocab(s->model), (uint64_t)(job->n_top + 1)) - 1;
    job->result.n_prompt = (uint32_t)n;
    job->submitted_ns = fb_now_ns();
    snprintf(job->client, sizeof job->client, "%s", o->client ? o->client : "");
    pthread_cond_init(&job->changed, NULL);
    enum forebay_status status =
        forebay_sampler_new(s->model, &o->sampling, o->prompt, &job->sampler, err);
    if (status == FOREBAY_OK) {
        status = forebay_text_new(s->model, o->prompt, o->stops, o->n_stops, &job->text, err);
    }
    if (status != FOREBAY_OK) {
        fb_job_free(job);
        return status;
    }
    for (size_t i = 0; i < n; i++) {
        forebay_sampler_accept(job->sampler, tokens[i]);
    }
    *out = job;
    return FOREBAY_OK;
}

static enum fb_refusal room_for_one(struct fb_service *s)
{
    return s->draining || s->quit         ? FB_DRAINING
           : s->n_waiting >= s->queue_max ? FB_BUSY
                                          : FB_ACCEPTED;
}

enum fb_refusal fb_service_submit(struct fb_service *s, const struct fb_job_options *o,
    struct fb_job **out, struct forebay_error *err)
{
    struct fb_job *job = NULL;
    pthread_mutex_lock(&s->lock);
    enum fb_refusal refusal = room_for_one(s);
    s->stats.requests++;
    s->stats.refused += refusal != FB_ACCEPTED;
    pthread_mutex_unlock(&s->lock);
    if (refusal != FB_ACCEPTED) {
        return refusal;
    }
    if (new_job(s, o, &job, err) != FOREBAY_OK) {
        return FB_INVALID;
    }
    pthread_mutex_lock(&s->lock);
    refusal = room_for_one(s);
    if (refusal == FB_ACCEPTED) {
        struct fb_job **at = &s->waiting;
        while (*at) {
            at = &(*at)->next;
        }
        *at = job;
        s->n_waiting++;
        pthread_cond_signal(&s->work);
    }
    s->stats.refused += refusal != FB_ACCEPTED;
    pthread_mutex_unlock(&s->lock);
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
    forebay_session_free(s->session);
    fb_kv_store_free(s->store);
    fb_prefix_release(&s->prefix);
    free(s->slots);
    free(s->items);
    free(s->item_slot);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

enum forebay_status fb_service_new(struct forebay_model *model, const struct fb_service_options *o,
    struct fb_service **out, struct forebay_error *err)
{
    struct fb_service *s = fb_xcalloc(1, sizeof *s);
    int n_seq = (int)forebay_model_sequences(model);
    FB_ASSERT(o->parallel >= 1 && o->parallel <= n_seq);
    s->model = model;
    s->ctx = forebay_model_ctx(model);
    s->batch = forebay_model_batch(model);
    s->parallel = o->parallel < (int)s->batch ? o->parallel : (int)s->batch;
    s->queue_max = o->queue_max;
    s->stats.parallel = s->parallel;
    s->stats.queue_max = s->queue_max;
    s->stats.kv_cells = (uint64_t)s->ctx * (uint64_t)o->parallel;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    fb_prefix_init(&s->prefix, n_seq);
    s->slots = fb_xcalloc((size_t)s->parallel, sizeof *s->slots);
    s->items = fb_xcalloc(s->batch, sizeof *s->items);
    s->item_slot = fb_xcalloc(s->batch, sizeof *s->item_slot);
    enum forebay_status status = forebay_session_new(model, &s->session, err);
    if (status == FOREBAY_OK && o->kv_dir) {
        status = fb_kv_store_open(
            o->kv_dir, o->kv_max_bytes, forebay_state_fingerprint(model), &s->store, err);
    }
    if (status == FOREBAY_OK) {
        forebay_stats_get(s->session, &s->stats.model);
        update_idle_stats(s);
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
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    pthread_mutex_unlock(&s->lock);
}

bool fb_service_is_empty(struct fb_service *s)
{
    pthread_mutex_lock(&s->lock);
    bool empty = s->n_active == 0 && !s->waiting;
    pthread_mutex_unlock(&s->lock);
    return empty;
}

void fb_service_free(struct fb_service *s)
{
    if (s) {
        pthread_mutex_lock(&s->lock);
        s->quit = true;
        pthread_cond_signal(&s->work);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        release(s);
    }
}

/* --- Figures ------------------------------------------------------------------------------- */

/* Tokens per second over the whole seconds that are over, of which the last counts for sure. */
static double recent_rate(const struct fb_service *s)
{
    uint64_t now = fb_now_ns() / 1000000000, sum = 0, span = FB_RATE_SECONDS - 1;
    for (int i = 0; i < FB_RATE_SECONDS; i++) {
        if (s->rate_second[i] < now && now - s->rate_second[i] <= span) {
            sum += s->rate_tokens[i];
        }
    }
    return (double)sum / (double)span;
}

void fb_service_stats(struct fb_service *s, struct fb_service_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->waiting = s->n_waiting;
    out->active = s->n_active;
    out->draining = s->draining;
    out->recent_tok_per_s = recent_rate(s);
    pthread_mutex_unlock(&s->lock);
}

const struct forebay_model *fb_service_model(const struct fb_service *s)
{
    return s->model;
}
