#include "serve/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "serve/answer.h"
#include "serve/chat_fields.h"

#define PRESENCE_MS         250 /* between two checks whether the client is still there */
#define TURN_MS             20  /* to wait for one of several choices before the next is tried */
#define FIRST_WAIT_NS       (5 * (uint64_t)1000000000) /* for an error, before a stream begins */
#define LOGPROB_BYTES       1000 /* measured: 900 as JSON values, with the answer's text */
#define COLLECT_STEP        ((uint64_t)256 << 10)
#define JOB_BYTES_PER_TOKEN 16 /* of a prompt: its token and its text */
#define FLIGHT_MAX          16 /* jobs of one request that wait or run at a time */
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
    x->n = 1;
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
    for (int i = 0; i < x->n_prompts; i++) {
        forebay_prompt_free(x->prompts[i]);
    }
    free(x->prompts);
    free(x->biases);
    free(x->choices);
    if (x->dialect->free_state && x->state) {
        x->dialect->free_state(x->state);
    }
    free(x->grammar);
    json_decref(x->body);
    free(x);
}

/* --- Presence ------------------------------------------------------------------------------ */

/* Returns 0 to go on, or an HTTP status and *why, if nobody will read the answer. Looks for the
 * client every PRESENCE_MS, however often it is called. A client that has closed only its sending
 * half cannot be told from one that has left, which is what nearly all of them have done; it is
 * informed by the error. */
static int abandoned_status(struct fb_exchange *x, const char **why)
{
    uint64_t now = fb_now_ns();
    if (!x->abandoned && x->served->stopping) {
        x->abandoned = 503;
        x->abandoned_why = "the server is shutting down";
    } else if (!x->abandoned && now - x->presence_ns >= PRESENCE_MS * (uint64_t)1000000) {
        x->presence_ns = now;
        x->abandoned = fb_request_left(x->request) ? 400 : 0;
        x->abandoned_why =
            "the client closed its half of the connection before it had the answer; keep it open";
    }
    *why = x->abandoned_why;
    return x->abandoned;
}

/* forebay_progress of making a prompt */
static bool is_wanted(const char *what, uint64_t done, uint64_t total, void *user)
{
    const char *why;
    (void)what;
    (void)done;
    (void)total;
    return abandoned_status(user, &why) == 0;
}

/* --- Prompts ------------------------------------------------------------------------------- */

/* Takes over the prompt that a function has made, or reports its failure. */
static void add_prompt(struct fb_exchange *x, struct fb_fields *f, enum forebay_status status,
    struct forebay_prompt *prompt, const struct forebay_error *err)
{
    if (status != FOREBAY_OK) {
        fb_fields_fail(f, "%s", err->message);
        f->code = status == FOREBAY_E_CONTEXT ? "context_length_exceeded" : f->code;
        return;
    }
    x->prompts = fb_xrealloc(x->prompts, ((size_t)x->n_prompts + 1) * sizeof(void *));
    x->prompts[x->n_prompts++] = prompt;
}

/* Tools that the template does not show to the model would be ignored without a word. */
static void check_tools(struct fb_fields *f, const struct forebay_chat *template, json_t *chat)
{
    const char *choice = json_string_value(json_object_get(chat, "tool_choice"));
    bool wanted = !choice || strcmp(choice, "none") != 0;
    if (wanted && json_array_size(json_object_get(chat, "tools")) > 0 &&
        !forebay_chat_has_tools(template)) {
        fb_fields_fail(f, "tools are not supported: the model's chat template knows none; leave "
                          "them out, or start the server with another --chat-template");
    }
}

void fb_exchange_render(
    struct fb_exchange *x, struct fb_fields *f, const struct forebay_chat *template, json_t *chat)
{
    struct forebay_error err;
    struct forebay_prompt *prompt = NULL;
    struct fb_fields tidy = {.object = chat};
    template = template ? template : x->served->chat;
    if (f->bad) {
        return;
    }
    fb_chat_tidy(&tidy);
    if (tidy.bad) {
        fb_fields_fail(f, "%s", tidy.message);
    } else if (!template) {
        fb_fields_fail(f, "chat is not available: %s", x->served->no_chat);
    } else {
        check_tools(f, template, chat);
    }
    if (!f->bad) {
        char *text = json_dumps(chat, JSON_COMPACT);
        x->parse = true;
        enum forebay_status status =
            forebay_chat_render(template, text, strlen(text), is_wanted, x, &prompt, &err);
        if (status == FOREBAY_E_CANCELLED) {
            fb_fields_fail(f, "%s", x->abandoned_why);
            f->status = x->abandoned;
        } else {
            add_prompt(x, f, status, prompt, &err);
        }
        free(text);
    }
}

void fb_exchange_raw(struct fb_exchange *x, struct fb_fields *f, const json_t *text)
{
    struct forebay_error err;
    struct forebay_prompt *prompt = NULL;
    if (!f->bad) {
        enum forebay_status status = forebay_prompt_from_text(
            x->served->model, json_string_value(text), json_string_length(text), &prompt, &err);
        add_prompt(x, f, status, prompt, &err);
    }
}

void fb_exchange_tokens(struct fb_exchange *x, struct fb_fields *f, const int32_t *tokens, size_t n)
{
    struct forebay_error err;
    struct forebay_prompt *prompt = NULL;
    if (!f->bad) {
        enum forebay_status status =
            forebay_prompt_from_tokens(x->served->model, tokens, n, &prompt, &err);
        add_prompt(x, f, status, prompt, &err);
    }
}

void fb_exchange_format(struct fb_exchange *x, struct fb_fields *f, json_t *object)
{
    struct forebay_error err;
    struct fb_fields inner = {.object = object};
    json_t *schema;
    const char *grammar;
    fb_params_format(&inner, &schema, &grammar);
    if (inner.bad) {
        fb_fields_fail(f, "%s", inner.message);
    } else if (schema) {
        char *bytes = json_dumps(schema, JSON_COMPACT);
        if (forebay_schema_grammar(bytes, strlen(bytes), &x->grammar, &err) != FOREBAY_OK) {
            fb_fields_fail(f, "%s", err.message);
        }
        free(bytes);
    } else if (grammar) {
        x->grammar = fb_xstrdup(grammar);
    }
    json_decref(schema);
}

/* --- Jobs ---------------------------------------------------------------------------------- */

static int http_status(enum forebay_status status)
{
    switch (status) {
    case FOREBAY_E_USAGE:
    case FOREBAY_E_CONTEXT:
    case FOREBAY_E_UNSUPPORTED:
        return 400;
    case FOREBAY_E_NOFIT:
    case FOREBAY_E_NOMEM:
        return 503;
    default:
        return 500;
    }
}

/* The HTTP status of a refusal; *why is the reason. */
static int refusal_status(struct fb_exchange *x, enum fb_refusal refusal,
    const struct forebay_error *err, const char **why)
{
    if (refusal == FB_BUSY) {
        *why = "the server is busy: too many requests are waiting; try again later";
        return x->request->api == FB_API_OLLAMA ? 503 : 429;
    }
    *why = refusal == FB_DRAINING ? "the server is shutting down" : err->message;
    return refusal == FB_DRAINING ? 503 : http_status(err->status);
}

static void refuse(struct fb_exchange *x, enum fb_refusal refusal, const struct forebay_error *err)
{
    const char *why;
    int status = refusal_status(x, refusal, err, &why);
    fb_answer_error(x->request, status, "%s", why);
}

static enum fb_refusal submit_choice(struct fb_exchange *x, int c, struct forebay_error *err)
{
    const struct forebay_prompt *prompt = x->prompts[c / x->n];
    struct fb_job_options o = {
        .prompt = prompt,
        .sampling = x->sampling,
        .n_predict = x->n_predict,
        .stops = x->stops,
        .n_stops = x->n_stops,
        .n_top = x->n_top,
        .client = x->request->client,
    };
    o.sampling.grammar = x->grammar;
    o.sampling.seed = x->sampling.seed + (uint32_t)(c % x->n);
    enum fb_refusal refusal = fb_service_submit(x->served->service, &o, &x->choices[c].job, err);
    if (refusal == FB_ACCEPTED && x->parse) {
        forebay_reply_new(prompt, &x->choices[c].reply, NULL);
    }
    return refusal;
}

/* Submits the next choices. While some are under way, a full queue is no reason to fail. */
static enum fb_refusal submit_more(struct fb_exchange *x, struct forebay_error *err)
{
    while (x->n_submitted < x->n_choices && x->n_submitted - x->n_ended < FLIGHT_MAX) {
        enum fb_refusal refusal = submit_choice(x, x->n_submitted, err);
        if (refusal != FB_ACCEPTED) {
            bool later = refusal == FB_BUSY && x->n_submitted > x->n_ended;
            return later ? FB_ACCEPTED : refusal;
        }
        x->n_submitted++;
    }
    return FB_ACCEPTED;
}

/* False: the request has been answered. */
static bool submit(struct fb_exchange *x)
{
    struct forebay_error err = {0};
    x->n_choices = x->n_prompts * x->n;
    x->choices = fb_xcalloc((size_t)x->n_choices, sizeof *x->choices);
    enum fb_refusal refusal = submit_more(x, &err);
    if (refusal != FB_ACCEPTED) {
        refuse(x, refusal, &err);
        return false;
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
    x->n_ended++;
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
    return x->n_ended == x->n_choices;
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

/* The next choice that is under way. */
static int next_turn(const struct fb_exchange *x)
{
    int c = x->turn;
    do {
        c = (c + 1) % x->n_submitted;
    } while (x->choices[c].result && c != x->turn);
    return c;
}

/* Waits at most PRESENCE_MS for any choice. Returns 0, or an HTTP status and *why, if a choice has
 * failed or was refused, or nobody will read the answer. */
static int advance(struct fb_exchange *x, struct fb_buffer *out, const char **why)
{
    int c = x->turn = next_turn(x);
    if (!x->choices[c].result) {
        advance_choice(x, c, x->n_choices > 1 ? TURN_MS : PRESENCE_MS, out);
        if (x->choices[c].result && has_failed(x->choices[c].result)) {
            return failed_status(x->choices[c].result, why);
        }
        if (x->choices[c].result) {
            enum fb_refusal refusal = submit_more(x, &x->refusal);
            if (refusal != FB_ACCEPTED) {
                return refusal_status(x, refusal, &x->refusal, why);
            }
        }
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
    uint32_t ctx = forebay_model_ctx(x->served->model);
    if (f->bad) {
        fb_answer_fields(x->request, f);
        return false;
    }
    if (x->n_prompts == 0) {
        fb_answer_error(x->request, 400, "the request has no prompt");
        return false;
    }
    for (int i = 0; i < x->n_prompts; i++) {
        size_t n;
        forebay_prompt_tokens(x->prompts[i], &n);
        if (n >= ctx) {
            char message[256];
            snprintf(message, sizeof message,
                "the prompt has %zu tokens; at most %u fit into the context of %u: shorten it, or "
                "start the server with a larger --ctx",
                n, ctx - 1, ctx);
            fb_answer_coded(x->request, 400, "context_length_exceeded", message);
            return false;
        }
    }
    return true;
}

/* Frees the parts of the request that are in the prompt now: a job may wait for long. */
static void drop_prompt_fields(struct fb_exchange *x)
{
    static const char *const names[] = {"messages", "prompt", "system", "tools", "functions",
        "context", "suffix", "images", "template", "format", "response_format", "json_schema"};
    size_t n_tokens = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_object_del(x->body, names[i]);
    }
    for (int i = 0; i < x->n_prompts; i++) {
        size_t n;
        forebay_prompt_tokens(x->prompts[i], &n);
        n_tokens += n;
    }
    fb_request_settle(x->request, n_tokens * JOB_BYTES_PER_TOKEN);
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
    uint32_t sum = 0;
    for (int i = 0; i < x->n_prompts; i++) {
        size_t n;
        forebay_prompt_tokens(x->prompts[i], &n);
        sum += (uint32_t)n;
    }
    return sum;
}

uint32_t fb_exchange_reused_tokens(const struct fb_exchange *x)
{
    uint32_t sum = 0;
    for (int c = 0; c < x->n_choices; c += x->n) {
        sum += x->choices[c].result ? x->choices[c].result->n_reused : 0;
    }
    return sum;
}

uint32_t fb_exchange_generated_tokens(const struct fb_exchange *x)
{
    uint32_t n = 0;
    for (int c = 0; c < x->n_choices; c++) {
        n += x->choices[c].result ? x->choices[c].result->n_generated : 0;
    }
    return n;
}
