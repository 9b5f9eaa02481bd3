/* passes.c - what one pass of the model computes, and what becomes of its rows. */
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "serve/internal.h"

/* While somebody generates, a piece of a prompt is at most this share of a batch: it is how long the
 * others wait for their next token. Small pieces cost a mixture of experts much, as each reads nearly
 * all of them. */
#define PIECE_SHARE 4
#define PIECE_MIN   32

/* A reply that has grown so far ahead of its reader waits for him, and in the end without hope. */
#define UNREAD_MAX_BYTES ((size_t)1 << 18)
#define UNREAD_MAX_NS    (60 * (uint64_t)1000000000)

#define STATS_EVERY_NS (100 * (uint64_t)1000000)

/* --- Who takes part ------------------------------------------------------------------------ */

/* Whether the job can go on; one that cannot is ended. */
static bool can_go_on(struct fb_service *s, struct fb_slot *slot)
{
    struct fb_job *job = slot->job;
    pthread_mutex_lock(&s->lock);
    bool wanted = job->wanted && !s->quit, unread = job->unread_bytes > UNREAD_MAX_BYTES;
    pthread_mutex_unlock(&s->lock);
    uint64_t now = fb_now_ns();
    job->unread_ns = !unread ? 0 : job->unread_ns ? job->unread_ns : now;
    if (!wanted || (unread && now - job->unread_ns > UNREAD_MAX_NS)) {
        fb_slots_end(s, slot, FB_END_CANCELLED);
        return false;
    }
    return !unread;
}

static size_t add_generating(struct fb_service *s)
{
    size_t n = 0;
    for (int i = 0; i < s->parallel; i++) {
        struct fb_slot *slot = &s->slots[i];
        if (slot->job && slot->generating && can_go_on(s, slot)) {
            s->items[n] = (struct forebay_item){slot->next, slot->seq, true};
            s->item_slot[n++] = i;
        }
    }
    return n;
}

/* The slot whose prompt has waited longest, after `turn`. */
static struct fb_slot *next_prompt(struct fb_service *s, uint64_t turn)
{
    struct fb_slot *next = NULL;
    for (int i = 0; i < s->parallel; i++) {
        struct fb_slot *slot = &s->slots[i];
        if (slot->job && !slot->generating && slot->turn > turn &&
            (!next || slot->turn < next->turn)) {
            next = slot;
        }
    }
    return next;
}

static size_t add_prompts(struct fb_service *s, size_t n, size_t room)
{
    uint64_t turn = 0;
    struct fb_slot *slot;
    while (room > 0 && (slot = next_prompt(s, turn))) {
        turn = slot->turn;
        if (!can_go_on(s, slot)) {
            continue;
        }
        const struct fb_job *job = slot->job;
        uint32_t count = (uint32_t)fb_min(room, job->n_tokens - slot->n_done);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t at = slot->n_done + i;
            s->items[n] =
                (struct forebay_item){job->tokens[at], slot->seq, at + 1 == job->n_tokens};
            s->item_slot[n++] = (int)(slot - s->slots);
        }
        room -= count;
    }
    return n;
}

uint32_t fb_service_piece(uint32_t batch)
{
    return (uint32_t)fb_max(batch / PIECE_SHARE, PIECE_MIN);
}

/* V1: with generating jobs, prompts get small pieces, and no more time than those. */
static size_t plan_pass(struct fb_service *s, bool *has_prompt)
{
    size_t generating = add_generating(s), room = s->batch - generating;
    if (generating > 0) {
        room = s->prompt_debt_ns > 0 ? 0 : fb_min(room, fb_service_piece(s->batch));
    }
    size_t n = add_prompts(s, generating, room);
    *has_prompt = n > generating;
    return n;
}

/* --- What becomes of it -------------------------------------------------------------------- */

static void count_tokens(struct fb_service *s, uint64_t n)
{
    uint64_t second = fb_now_ns() / 1000000000;
    int i = (int)(second % FB_RATE_SECONDS);
    if (s->rate_second[i] != second) {
        s->rate_second[i] = second;
        s->rate_tokens[i] = 0;
    }
    s->rate_tokens[i] += n;
    s->stats.generated_tokens += n;
}

/* Hands out a token; whether the job goes on after it. */
static bool give_token(struct fb_service *s, struct fb_slot *slot, size_t row, enum fb_end *end)
{
    struct fb_job *job = slot->job;
    struct forebay_logprob top[FB_TOP_MAX];
    float logprob = 0;
    size_t n = 0;
    if (job->n_top >= 0) {
        forebay_logprobs(s->session, row, slot->next, &logprob, top, (size_t)job->n_top);
    }
    job->result.n_generated++;
    if (forebay_model_is_eog(s->model, slot->next)) {
        *end = FB_END_STOP;
        return false;
    }
    const char *text = forebay_text_add(job->text, slot->next, &n);
    if (n > 0 || job->n_top >= 0) {
        fb_job_give(job, text, n, slot->next, logprob, top);
    }
    if (forebay_text_stop(job->text)) {
        job->result.stop = forebay_text_stop(job->text);
        *end = FB_END_STRING;
        return false;
    }
    *end = FB_END_LENGTH;
    return (job->n_predict < 0 || job->result.n_generated < job->n_predict) &&
           forebay_seq_length(s->session, slot->seq) < s->ctx;
}

static void end_text(struct fb_slot *slot)
{
    size_t n;
    const char *rest = forebay_text_end(slot->job->text, &n);
    if (n > 0) {
        fb_job_give(slot->job, rest, n, -1, 0, NULL);
    }
    if (forebay_text_stop(slot->job->text)) {
        slot->job->result.stop = forebay_text_stop(slot->job->text);
    }
}

static void take_row(struct fb_service *s, struct fb_slot *slot, size_t row)
{
    struct fb_job *job = slot->job;
    struct forebay_error err;
    enum fb_end end;
    enum forebay_status status =
        forebay_sampler_pick(job->sampler, s->session, row, &slot->next, &err);
    if (status != FOREBAY_OK) {
        fb_slots_fail(s, slot, &err);
        return;
    }
    slot->generating = true;
    job->first_ns = job->first_ns ? job->first_ns : fb_now_ns();
    pthread_mutex_lock(&s->lock);
    count_tokens(s, 1);
    pthread_mutex_unlock(&s->lock);
    if (!give_token(s, slot, row, &end)) {
        end_text(slot);
        fb_slots_end(s, slot, end);
    }
}

static void take_rows(struct fb_service *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct fb_slot *slot = &s->slots[s->item_slot[i]];
        fb_prefix_add(&s->prefix, slot->seq, &s->items[i].token, 1);
        if (!slot->generating) {
            slot->n_done++;
        }
    }
    for (size_t i = 0; i < n; i++) {
        struct fb_slot *slot = &s->slots[s->item_slot[i]];
        if (s->items[i].logits && slot->job) {
            take_row(s, slot, i);
        }
    }
}

/* V4: everybody in the pass fails, with the same error. */
static void fail_pass(struct fb_service *s, size_t n, const struct forebay_error *err)
{
    for (size_t i = 0; i < n; i++) {
        struct fb_slot *slot = &s->slots[s->item_slot[i]];
        if (slot->job) {
            fb_slots_fail(s, slot, err);
        }
    }
}

static void account(struct fb_service *s, size_t n, bool has_prompt, size_t generating, uint64_t ns)
{
    /* V1: what a pass with a prompt takes, passes without are owed. */
    if (has_prompt) {
        s->prompt_debt_ns = generating > 0 ? ns : 0;
    } else {
        s->prompt_debt_ns -= fb_min(s->prompt_debt_ns, ns);
    }
    pthread_mutex_lock(&s->lock);
    s->stats.passes++;
    s->stats.busy_s += (double)ns * 1e-9;
    s->stats.prompt_tokens_computed += n - generating;
    if (!has_prompt) {
        s->stats.decode_passes++;
        s->stats.decode_rows += n;
        s->stats.decode_s += (double)ns * 1e-9;
    }
    uint64_t now = fb_now_ns();
    if (now - s->stats_ns > STATS_EVERY_NS) {
        forebay_stats_get(s->session, &s->stats.model);
        s->stats_ns = now;
    }
    pthread_mutex_unlock(&s->lock);
}

bool fb_service_pass(struct fb_service *s)
{
    bool has_prompt;
    struct forebay_error err;
    size_t n = plan_pass(s, &has_prompt);
    if (n == 0) {
        s->prompt_debt_ns = 0;
        return false;
    }
    size_t generating = 0;
    while (generating < n && s->slots[s->item_slot[generating]].generating) {
        generating++;
    }
    uint64_t start = fb_now_ns();
    enum forebay_status status = forebay_decode(s->session, s->items, n, &err);
    while (status == FOREBAY_E_NOFIT && fb_slots_evict(s)) {
        status = forebay_decode(s->session, s->items, n, &err);
    }
    if (status != FOREBAY_OK) {
        fail_pass(s, n, &err);
        return true;
    }
    account(s, n, has_prompt, generating, fb_now_ns() - start);
    take_rows(s, n);
    return true;
}
