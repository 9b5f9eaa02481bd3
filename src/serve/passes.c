/*
 * passes.c - chooses the rows of a pass, evaluates them, and turns their logits into tokens.
 *
 *      plan       rows of generating jobs, then of prompts
 *      decode     one evaluation of the model; idle sequences are evicted if the KV cache is full
 *      receive    each row that has logits yields a token: text for the reader, the next row, or
 *                 the end of the job
 */
#include "serve/passes.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"

/* A job whose reader is this far behind is paused until it has read enough, and cancelled after the
 * timeout. */
#define UNREAD_MAX_BYTES ((size_t)1 << 18)
#define UNREAD_MAX_NS    (60 * (uint64_t)1000000000)

#define STATS_EVERY_NS (100 * (uint64_t)1000000)

void fb_passes_init(struct fb_passes *p, const struct forebay_model *model,
    struct fb_sequences *sequences, uint32_t rows_max, uint32_t prompt_rows)
{
    *p = (struct fb_passes){
        .model = model,
        .sequences = sequences,
        .queue = sequences->queue,
        .rows_max = rows_max,
        .prompt_rows = prompt_rows,
        .items = fb_xcalloc(rows_max, sizeof *p->items),
        .item_active = fb_xcalloc(rows_max, sizeof *p->item_active),
    };
}

void fb_passes_release(struct fb_passes *p)
{
    free(p->items);
    free(p->item_active);
}

/* --- Planning ------------------------------------------------------------------------------ */

/* True if the job takes part in this pass. SV3: cancels it if it is released or not read. */
static bool can_advance(struct fb_passes *p, struct fb_active *a)
{
    struct fb_job *job = a->job;
    pthread_mutex_lock(&p->queue->lock);
    bool wanted = job->wanted && !p->queue->quit, unread = job->unread_bytes > UNREAD_MAX_BYTES;
    pthread_mutex_unlock(&p->queue->lock);
    uint64_t now = fb_now_ns();
    job->unread_ns = !unread ? 0 : job->unread_ns ? job->unread_ns : now;
    if (!wanted || (unread && now - job->unread_ns > UNREAD_MAX_NS)) {
        fb_sequences_end(p->sequences, a, FB_END_CANCELLED);
        return false;
    }
    return !unread;
}

static size_t add_generating(struct fb_passes *p)
{
    size_t n = 0;
    for (int i = 0; i < p->sequences->n_active_max; i++) {
        struct fb_active *a = &p->sequences->active[i];
        if (a->job && a->generating && can_advance(p, a)) {
            p->items[n] = (struct forebay_item){a->next, a->seq, true};
            p->item_active[n++] = i;
        }
    }
    return n;
}

/* The active job that was started first, of those after `turn` whose prompt is not complete. */
static struct fb_active *next_prompt(struct fb_passes *p, uint64_t turn)
{
    struct fb_active *next = NULL;
    for (int i = 0; i < p->sequences->n_active_max; i++) {
        struct fb_active *a = &p->sequences->active[i];
        if (a->job && !a->generating && a->turn > turn && (!next || a->turn < next->turn)) {
            next = a;
        }
    }
    return next;
}

static size_t add_prompts(struct fb_passes *p, size_t n, size_t room)
{
    uint64_t turn = 0;
    struct fb_active *a;
    while (room > 0 && (a = next_prompt(p, turn))) {
        turn = a->turn;
        if (!can_advance(p, a)) {
            continue;
        }
        const struct fb_job *job = a->job;
        uint32_t count = (uint32_t)fb_min(room, job->n_tokens - a->n_done);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t at = a->n_done + i;
            p->items[n] = (struct forebay_item){job->tokens[at], a->seq, at + 1 == job->n_tokens};
            p->item_active[n++] = (int)(a - p->sequences->active);
        }
        room -= count;
    }
    return n;
}

/* SV1: while a job generates, prompts get few rows, and no more time than generating does. */
static size_t plan(struct fb_passes *p, bool *has_prompt)
{
    size_t generating = add_generating(p), room = p->rows_max - generating;
    if (generating > 0) {
        room = p->prompt_debt_ns > 0 ? 0 : fb_min(room, p->prompt_rows);
    }
    size_t n = add_prompts(p, generating, room);
    *has_prompt = n > generating;
    return n;
}

/* --- Receiving ----------------------------------------------------------------------------- */

/* Hands a->next to the reader. False if the job is complete with it; *end says why. */
static bool push_token(struct fb_passes *p, struct fb_active *a, size_t row, enum fb_end *end)
{
    struct fb_job *job = a->job;
    struct forebay_session *session = p->sequences->session;
    struct forebay_logprob top[FB_TOP_MAX];
    float logprob = 0;
    size_t n = 0;
    if (job->n_top >= 0) {
        forebay_logprobs(session, row, a->next, &logprob, top, (size_t)job->n_top);
    }
    job->result.n_generated++;
    if (forebay_model_is_eog(p->model, a->next)) {
        *end = FB_END_STOP;
        return false;
    }
    const char *text = forebay_text_add(job->text, a->next, &n);
    if (n > 0 || job->n_top >= 0) {
        fb_job_push(job, text, n, a->next, logprob, top);
    }
    if (forebay_text_stop(job->text)) {
        job->result.stop = forebay_text_stop(job->text);
        *end = FB_END_STRING;
        return false;
    }
    *end = FB_END_LENGTH;
    return (job->n_predict < 0 || job->result.n_generated < job->n_predict) &&
           forebay_seq_length(session, a->seq) < p->sequences->ctx;
}

/* Hands out the text that was held back. */
static void push_rest(struct fb_active *a)
{
    size_t n;
    const char *rest = forebay_text_end(a->job->text, &n);
    if (n > 0) {
        fb_job_push(a->job, rest, n, -1, 0, NULL);
    }
    if (forebay_text_stop(a->job->text)) {
        a->job->result.stop = forebay_text_stop(a->job->text);
    }
}

static void count_token(struct fb_passes *p)
{
    uint64_t now = fb_now_ns();
    pthread_mutex_lock(&p->queue->lock);
    fb_rate_add(&p->queue->rate, now, 1);
    p->queue->stats.generated_tokens++;
    pthread_mutex_unlock(&p->queue->lock);
}

/* Samples a token from the logits of a row. */
static void receive_logits(struct fb_passes *p, struct fb_active *a, size_t row)
{
    struct fb_job *job = a->job;
    struct forebay_error err;
    enum fb_end end;
    enum forebay_status status =
        forebay_sampler_pick(job->sampler, p->sequences->session, row, &a->next, &err);
    if (status != FOREBAY_OK) {
        fb_sequences_fail(p->sequences, a, &err);
        return;
    }
    a->generating = true;
    job->first_ns = job->first_ns ? job->first_ns : fb_now_ns();
    count_token(p);
    if (!push_token(p, a, row, &end)) {
        push_rest(a);
        fb_sequences_end(p->sequences, a, end);
    }
}

static struct fb_active *active_of(struct fb_passes *p, size_t row)
{
    return &p->sequences->active[p->item_active[row]];
}

static void receive(struct fb_passes *p, size_t n)
{
    struct fb_active *first = active_of(p, 0);
    bool one_prompt = !first->generating;
    for (size_t i = 0; i < n; i++) {
        struct fb_active *a = active_of(p, i);
        fb_prefix_add(&p->sequences->prefix, a->seq, &p->items[i].token, 1);
        one_prompt = one_prompt && a == first;
        if (!a->generating) {
            a->n_done++;
        }
    }
    if (one_prompt) {
        fb_sequences_note_pass(p->sequences, first, (uint32_t)n);
    }
    for (size_t i = 0; i < n; i++) {
        if (p->items[i].logits && active_of(p, i)->job) {
            receive_logits(p, active_of(p, i), i);
        }
    }
}

/* SV4: all jobs of the pass fail with the same error. If the model cannot be read, later passes
 * will probably fail, too: that is reported once, until one succeeds. */
static void fail(struct fb_passes *p, size_t n, const struct forebay_error *err)
{
    bool unreadable = err->status == FOREBAY_E_IO || err->status == FOREBAY_E_FORMAT;
    pthread_mutex_lock(&p->queue->lock);
    bool is_new = unreadable && !p->queue->stats.unhealthy;
    p->queue->stats.unhealthy |= unreadable;
    pthread_mutex_unlock(&p->queue->lock);
    if (is_new) {
        fb_log(FOREBAY_LOG_ERROR, "requests fail: %s", err->message);
    }
    for (size_t i = 0; i < n; i++) {
        if (active_of(p, i)->job) {
            fb_sequences_fail(p->sequences, active_of(p, i), err);
        }
    }
}

/* --- Counting ------------------------------------------------------------------------------ */

void fb_passes_publish_stats(struct fb_passes *p)
{
    struct forebay_stats model;
    forebay_stats_get(p->sequences->session, &model);
    pthread_mutex_lock(&p->queue->lock);
    p->queue->stats.model = model;
    pthread_mutex_unlock(&p->queue->lock);
    p->model_stats_ns = fb_now_ns();
}

static void count_pass(
    struct fb_passes *p, size_t n, bool has_prompt, size_t generating, uint64_t ns)
{
    /* SV1: the time of a pass with prompts is owed to passes without. */
    if (has_prompt) {
        p->prompt_debt_ns = generating > 0 ? ns : 0;
    } else {
        p->prompt_debt_ns -= fb_min(p->prompt_debt_ns, ns);
    }
    struct fb_service_stats *stats = &p->queue->stats;
    pthread_mutex_lock(&p->queue->lock);
    stats->passes++;
    stats->unhealthy = false;
    stats->busy_s += (double)ns * 1e-9;
    stats->prompt_tokens_computed += n - generating;
    if (!has_prompt) {
        stats->decode_passes++;
        stats->decode_rows += n;
        stats->decode_s += (double)ns * 1e-9;
    }
    pthread_mutex_unlock(&p->queue->lock);
    if (fb_now_ns() - p->model_stats_ns > STATS_EVERY_NS) {
        fb_passes_publish_stats(p);
    }
}

bool fb_passes_run(struct fb_passes *p)
{
    bool has_prompt;
    struct forebay_error err;
    struct forebay_session *session = p->sequences->session;
    size_t n = plan(p, &has_prompt);
    if (n == 0) {
        p->prompt_debt_ns = 0;
        return false;
    }
    size_t generating = 0;
    while (generating < n && active_of(p, generating)->generating) {
        generating++;
    }
    uint64_t start = fb_now_ns();
    enum forebay_status status = forebay_decode(session, p->items, n, &err);
    while (status == FOREBAY_E_NOFIT && fb_sequences_evict(p->sequences)) {
        status = forebay_decode(session, p->items, n, &err);
    }
    if (status != FOREBAY_OK) {
        fail(p, n, &err);
        return true;
    }
    count_pass(p, n, has_prompt, generating, fb_now_ns() - start);
    receive(p, n);
    return true;
}
