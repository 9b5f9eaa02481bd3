#include "serve/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "serve/answer.h"

#define PRESENCE_MS         250 /* between two checks whether the client is still there */
#define TURN_MS             20  /* to wait for one of several choices before the next is tried */
#define FIRST_WAIT_NS       (5 * (uint64_t)1000000000) /* for an error, before a stream begins */
#define LOGPROB_BYTES       1000 /* measured: 900 as JSON values, with the answer's text */
#define COLLECT_STEP        ((uint64_t)256 << 10)
#define JOB_BYTES_PER_TOKEN 16                          /* of a prompt: its token and its text */
#define KEEP_ALIVE_NS       (10 * (uint64_t)1000000000) /* of silence */

/* --- Life ---------------------------------------------------------------------------------- */

struct fb_exchange *fb_exchange_new(struct fb_request *request, const struct fb_dialect *dialect)
{
    static _Atomic uint64_t number;
    struct fb_fields fields;
    json_t *object = fb_fields_parse(&fields, request->body.data, request->body.n);
    if (!object) {
        fb_answer_error(request, 400, "%s", fields.message);
        return NULL;
    }
    struct fb_exchange *x = fb_xcalloc(1, sizeof *x);
    x->request = request;
    x->served = request->served;
    x->dialect = dialect;
    x->body = object;
    x->model = x->served->card.name;
    x->n_choices = 1;
    x->n_predict = -1;
    x->n_top = -1;
    x->started_ns = x->sent_ns = fb_now_ns();
    forebay_sampling_init(&x->sampling);
    x->sampling.temp = 0.8f;
    uint64_t serial = ++number;
    x->sampling.seed = (uint32_t)((x->started_ns ^ (serial << 20)) * 0x9e3779b97f4a7c15u >> 32);
    snprintf(x->id, sizeof x->id, "%08llx%08llx", (unsigned long long)time(NULL),
        (unsigned long long)(x->started_ns * 0x9e3779b97f4a7c15u >> 32));
    return x;
}

void fb_exchange_free(struct fb_exchange *x)
{
    for (int c = 0; c < x->n_choices; c++) {
        fb_job_release(x->choices[c].job);
        forebay_reply_free(x->choices[c].reply);
    }
    forebay_prompt_free(x->prompt);
    if (x->dialect->free_state && x->state) {
        x->dialect->free_state(x->state);
    }
    free(x->grammar);
    json_decref(x->body);
    free(x);
}

/* --- Prompts ------------------------------------------------------------------------------- */

static void note_failure(
    struct fb_fields *f, enum forebay_status status, const struct forebay_error *err)
{
    if (status != FOREBAY_OK) {
        fb_fields_fail(f, "%s", err->message);
    }
}

void fb_exchange_render(
    struct fb_exchange *x, struct fb_fields *f, const struct forebay_chat *template, json_t *chat)
{
    struct forebay_error err;
    template = template ? template : x->served->chat;
    if (!f->bad && !template) {
        fb_fields_fail(f, "chat is not available: the model has no tokenizer");
    }
    if (!f->bad) {
        char *text = json_dumps(chat, JSON_COMPACT);
        x->parse = true;
        note_failure(f, forebay_chat_render(template, text, strlen(text), &x->prompt, &err), &err);
        free(text);
    }
}

void fb_exchange_raw(struct fb_exchange *x, struct fb_fields *f, const char *text)
{
    struct forebay_error err;
    if (!f->bad) {
        note_failure(f,
            forebay_prompt_from_text(x->served->model, text, strlen(text), &x->prompt, &err), &err);
    }
}

void fb_exchange_tokens(struct fb_exchange *x, struct fb_fields *f, const int32_t *tokens, size_t n)
{
    struct forebay_error err;
    if (!f->bad) {
        note_failure(
            f, forebay_prompt_from_tokens(x->served->model, tokens, n, &x->prompt, &err), &err);
    }
}

/* --- Jobs ---------------------------------------------------------------------------------- */

static int http_status(enum forebay_status status)
{
    switch (status) {
    case FOREBAY_E_USAGE:
    case FOREBAY_E_UNSUPPORTED:
        return 400;
    case FOREBAY_E_NOFIT:
    case FOREBAY_E_NOMEM:
        return 503;
    default:
        return 500;
    }
}

static void refuse(struct fb_exchange *x, enum fb_refusal refusal, const struct forebay_error *err)
{
    if (refusal == FB_BUSY) {
        fb_answer_error(x->request, x->request->api == FB_API_OLLAMA ? 503 : 429,
            "the server is busy: too many requests are waiting; try again later");
    } else if (refusal == FB_DRAINING) {
        fb_answer_error(x->request, 503, "the server is shutting down");
    } else {
        fb_answer_error(x->request, http_status(err->status), "%s", err->message);
    }
}

/* One job for each choice. False: the request has been answered. */
static bool submit(struct fb_exchange *x)
{
    struct fb_job_options o = {
        .prompt = x->prompt,
        .sampling = x->sampling,
        .n_predict = x->n_predict,
        .stops = x->stops,
        .n_stops = x->n_stops,
        .n_top = x->n_top,
        .client = x->request->client,
    };
    o.sampling.grammar = x->grammar;
    for (int c = 0; c < x->n_choices; c++) {
        struct forebay_error err = {0};
        o.sampling.seed = x->sampling.seed + (uint32_t)c;
        enum fb_refusal refusal =
            fb_service_submit(x->served->service, &o, &x->choices[c].job, &err);
        if (refusal != FB_ACCEPTED) {
            refuse(x, refusal, &err);
            return false;
        }
        if (x->parse) {
            forebay_reply_new(x->prompt, &x->choices[c].reply, NULL);
        }
    }
    x->submitted_ns = fb_now_ns();
    return true;
}

/* --- Pieces -------------------------------------------------------------------------------- */

/* Turns generated text into deltas. `last`: no more will follow. */
static void write_text(
    struct fb_exchange *x, int c, const char *text, size_t n, bool last, struct fb_buffer *out)
{
    struct fb_choice *choice = &x->choices[c];
    const struct forebay_delta *deltas = NULL;
    size_t n_deltas = 0;
    struct forebay_delta plain = {FOREBAY_DELTA_CONTENT, text, n, 0, NULL, NULL};
    if (choice->reply) {
        forebay_reply_add(choice->reply, text, n, last, &deltas, &n_deltas, NULL);
    } else if (n > 0) {
        deltas = &plain;
        n_deltas = 1;
    }
    for (size_t i = 0; i < n_deltas; i++) {
        x->dialect->delta(x, c, &deltas[i], out);
    }
}

static bool has_failed(const struct fb_result *r)
{
    return r->end == FB_END_FAILED || r->end == FB_END_CANCELLED;
}

/* Waits at most `ms` for one choice. */
static void advance_choice(struct fb_exchange *x, int c, int ms, struct fb_buffer *out)
{
    struct fb_choice *choice = &x->choices[c];
    struct fb_piece piece;
    enum fb_job_state state = fb_job_next(choice->job, ms, &piece);
    if (state == FB_JOB_TIMEOUT) {
        return;
    }
    if (state == FB_JOB_PIECE) {
        if (x->n_top >= 0 && piece.token >= 0 && x->dialect->token) {
            x->dialect->token(x, c, &piece);
            x->collected_bytes += LOGPROB_BYTES * (uint64_t)(piece.n_top + 1);
        }
        write_text(x, c, piece.text, piece.length, false, out);
        return;
    }
    choice->result = fb_job_result(choice->job);
    if (!has_failed(choice->result)) {
        write_text(x, c, "", 0, true, out);
        x->dialect->finish(x, c, out);
    }
}

/* The HTTP status of a job that has failed; *why is the reason. */
static int failed_status(const struct fb_result *failed, const char **why)
{
    bool cancelled = failed->end == FB_END_CANCELLED;
    bool unreadable = failed->error.status == FOREBAY_E_IO ||
                      failed->error.status == FOREBAY_E_FORMAT; /* the message has a path */
    *why = cancelled ? "the request was cancelled: its answer was not read, or the server is ending"
           : unreadable ? "the model cannot be read; see the server's log"
                        : failed->error.message;
    return cancelled ? 503 : http_status(failed->error.status);
}

static bool all_ended(const struct fb_exchange *x)
{
    for (int c = 0; c < x->n_choices; c++) {
        if (!x->choices[c].result) {
            return false;
        }
    }
    return true;
}

/* Returns 0 to go on, or an HTTP status and *why, if nobody will read the answer. Checks every
 * PRESENCE_MS, however fast tokens are generated. A client that has closed only its sending half
 * cannot be told from one that has left, which is what nearly all of them have done; it is informed
 * by the error. */
static int abandoned_status(struct fb_exchange *x, const char **why)
{
    uint64_t now = fb_now_ns();
    if (now - x->presence_ns < PRESENCE_MS * (uint64_t)1000000) {
        return 0;
    }
    x->presence_ns = now;
    if (x->served->stopping) {
        *why = "the server is shutting down";
        return 503;
    }
    *why = "the client closed its half of the connection before it had the answer; keep it open";
    return fb_request_left(x->request) ? 400 : 0;
}

/* Without a stream, logprobs are collected until the end. False if they need too much memory. */
static bool has_room(struct fb_exchange *x)
{
    bool room = x->collected_bytes <= x->reserved_bytes ||
                fb_request_reserve(x->request, x->collected_bytes + COLLECT_STEP);
    if (x->collected_bytes > x->reserved_bytes && room) {
        x->reserved_bytes = x->collected_bytes + COLLECT_STEP;
    }
    return room;
}

/* Waits at most PRESENCE_MS for any choice. Returns 0, or an HTTP status and *why, if a choice has
 * failed or nobody will read the answer. */
static int advance(struct fb_exchange *x, struct fb_buffer *out, const char **why)
{
    int c = x->turn;
    do {
        c = (c + 1) % x->n_choices;
    } while (x->choices[c].result && c != x->turn);
    x->turn = c;
    if (!x->choices[c].result) {
        advance_choice(x, c, x->n_choices > 1 ? TURN_MS : PRESENCE_MS, out);
    }
    if (x->choices[c].result && has_failed(x->choices[c].result)) {
        return failed_status(x->choices[c].result, why);
    }
    if (!x->stream && !has_room(x)) {
        *why = "the server has no memory for so many logprobs; ask for fewer, or for a stream";
        return 503;
    }
    return all_ended(x) ? 0 : abandoned_status(x, why);
}

/* --- Streams ------------------------------------------------------------------------------- */

/* fb_body_source.next */
static bool next_bytes(void *user, struct fb_buffer *out)
{
    struct fb_exchange *x = user;
    if (x->over) {
        return false;
    }
    if (!x->begun) {
        x->begun = true;
        if (x->dialect->begin) {
            x->dialect->begin(x, out);
        }
        return true;
    }
    const char *why;
    int status = advance(x, out, &why);
    if (status != 0) {
        x->dialect->fail(x, status, why, out);
        x->over = true;
        return true;
    }
    if (all_ended(x)) {
        if (x->dialect->end) {
            x->dialect->end(x, out);
        }
        x->over = true;
    }
    uint64_t now = fb_now_ns();
    if (out->n == 0 && now - x->sent_ns > KEEP_ALIVE_NS && x->dialect->keep_alive) {
        x->dialect->keep_alive(out);
    }
    x->sent_ns = out->n > 0 ? now : x->sent_ns;
    return true;
}

static void free_exchange(void *user)
{
    fb_exchange_free(user);
}

/* A failure before the first piece is reported by its status, like any other. After FIRST_WAIT_NS
 * the stream begins anyway: clients want to see that the server is at work. */
static void answer_stream(struct fb_exchange *x)
{
    uint64_t start = fb_now_ns();
    const char *why;
    int status = 0;
    enum fb_job_state state = FB_JOB_TIMEOUT;
    while (state == FB_JOB_TIMEOUT && status == 0 && fb_now_ns() - start < FIRST_WAIT_NS) {
        state = fb_job_peek(x->choices[0].job, PRESENCE_MS);
        status = abandoned_status(x, &why);
    }
    if (state == FB_JOB_ENDED && has_failed(fb_job_result(x->choices[0].job))) {
        status = failed_status(fb_job_result(x->choices[0].job), &why);
    }
    if (status != 0) {
        fb_answer_error(x->request, status, "%s", why);
        fb_exchange_free(x);
    } else {
        const struct fb_body_source source = {next_bytes, free_exchange, x};
        fb_request_stream(x->request, x->dialect->type, &source);
    }
}

static void answer_whole(struct fb_exchange *x)
{
    struct fb_buffer unused = FB_BUFFER_INIT;
    const char *why;
    int status = 0;
    while (status == 0 && !all_ended(x)) {
        status = advance(x, &unused, &why);
    }
    if (status != 0) {
        fb_answer_error(x->request, status, "%s", why);
    } else {
        fb_answer_json(x->request, 200, x->dialect->whole(x));
    }
    fb_buffer_release(&unused);
    fb_exchange_free(x);
}

/* --- Running ------------------------------------------------------------------------------- */

/* False: the request has been answered. */
static bool check(struct fb_exchange *x, const struct fb_fields *f)
{
    size_t n_prompt;
    uint32_t ctx = forebay_model_ctx(x->served->model);
    if (f->bad || !x->prompt) {
        fb_answer_error(x->request, 400, "%s", f->bad ? f->message : "the request has no prompt");
        return false;
    }
    forebay_prompt_tokens(x->prompt, &n_prompt);
    if (n_prompt >= ctx) {
        char message[256];
        snprintf(message, sizeof message,
            "the prompt has %zu tokens; at most %u fit into the context of %u: shorten it, or "
            "start the "
            "server with a larger --ctx",
            n_prompt, ctx - 1, ctx);
        fb_answer_coded(x->request, 400, "context_length_exceeded", message);
        return false;
    }
    return true;
}

/* Frees the parts of the request that are in the prompt now: a job may wait for long. */
static void drop_prompt_fields(struct fb_exchange *x)
{
    static const char *const names[] = {"messages", "prompt", "system", "tools", "functions",
        "context", "suffix", "images", "template", "format", "response_format", "json_schema"};
    size_t n_prompt;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_object_del(x->body, names[i]);
    }
    forebay_prompt_tokens(x->prompt, &n_prompt);
    fb_request_settle(x->request, n_prompt * JOB_BYTES_PER_TOKEN);
}

void fb_exchange_run(struct fb_exchange *x, const struct fb_fields *f)
{
    bool good = check(x, f);
    if (good) {
        drop_prompt_fields(x);
    }
    if (!good || !submit(x)) {
        fb_exchange_free(x);
    } else if (x->stream) {
        answer_stream(x);
    } else {
        answer_whole(x);
    }
}

/* --- Counting ------------------------------------------------------------------------------ */

uint32_t fb_exchange_prompt_tokens(const struct fb_exchange *x)
{
    size_t n = 0;
    if (x->choices[0].result) {
        return x->choices[0].result->n_prompt;
    }
    if (x->prompt) { /* not computed yet */
        forebay_prompt_tokens(x->prompt, &n);
    }
    return (uint32_t)n;
}

uint32_t fb_exchange_reused_tokens(const struct fb_exchange *x)
{
    return x->choices[0].result ? x->choices[0].result->n_reused : 0;
}

uint32_t fb_exchange_generated_tokens(const struct fb_exchange *x)
{
    uint32_t n = 0;
    for (int c = 0; c < x->n_choices; c++) {
        n += x->choices[c].result ? x->choices[c].result->n_generated : 0;
    }
    return n;
}
