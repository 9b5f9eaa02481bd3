#include "serve/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"

#define LOOK_MS       250 /* between two looks whether the client is still there */
#define TURN_MS       20  /* between choices of the same request */
#define FIRST_WAIT_NS (5 * (uint64_t)1000000000)  /* for a status, before a stream begins */
#define KEEP_ALIVE_NS (10 * (uint64_t)1000000000) /* of silence */

/* --- Making -------------------------------------------------------------------------------- */

struct fb_exchange *fb_exchange_new(
    struct fb_request *request, const struct fb_dialect *dialect, enum fb_api api)
{
    struct fb_fields fields;
    size_t n;
    const char *body = fb_request_body(request, &n);
    json_t *object = fb_fields_parse(&fields, body, n);
    if (!object) {
        fb_answer_error(request, 400, "%s", fields.message);
        return NULL;
    }
    static _Atomic uint64_t number;
    struct fb_exchange *x = fb_xcalloc(1, sizeof *x);
    x->request = request;
    x->server = fb_request_server(request);
    x->dialect = dialect;
    x->api = api;
    x->body = object;
    x->model = x->server->card.name;
    x->n_choices = 1;
    for (int c = 0; c < FB_CHOICES_MAX; c++) {
        fb_buffer_init(&x->choices[c].text);
    }
    x->n_predict = -1;
    x->n_top = -1;
    x->created_s = (int64_t)time(NULL);
    x->started_ns = x->said_ns = fb_now_ns();
    forebay_sampling_init(&x->sampling);
    x->sampling.temp = 0.8f;
    uint64_t serial = ++number;
    x->sampling.seed = (uint32_t)((x->started_ns ^ (serial << 20)) * 0x9e3779b97f4a7c15u >> 32);
    snprintf(x->id, sizeof x->id, "%08llx%08llx", (unsigned long long)x->created_s,
        (unsigned long long)(x->started_ns * 0x9e3779b97f4a7c15u >> 32));
    return x;
}

void fb_exchange_free(struct fb_exchange *x)
{
    if (!x) {
        return;
    }
    for (int c = 0; c < x->n_choices; c++) {
        fb_job_release(x->choices[c].job);
        forebay_reply_free(x->choices[c].reply);
        json_decref(x->choices[c].logprobs);
        fb_buffer_release(&x->choices[c].text);
    }
    forebay_prompt_free(x->prompt);
    forebay_chat_free(x->own_chat);
    free(x->biases);
    free(x->grammar);
    json_decref(x->body);
    free(x);
}

/* --- Prompts ------------------------------------------------------------------------------- */

int fb_http_status(enum forebay_status status)
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

static bool keep(struct fb_fields *f, enum forebay_status status, const struct forebay_error *err)
{
    if (status != FOREBAY_OK) {
        fb_fields_fail(f, "%s", err->message);
    }
    return status == FOREBAY_OK;
}

bool fb_exchange_render(struct fb_exchange *x, struct fb_fields *f, json_t *chat)
{
    struct forebay_error err;
    if (f->bad) {
        return false;
    }
    const struct forebay_chat *template = x->own_chat ? x->own_chat : x->server->chat;
    if (!template) {
        fb_fields_fail(f, "the model has no tokenizer, and so no chat");
        return false;
    }
    char *text = json_dumps(chat, JSON_COMPACT);
    x->parse = true;
    bool ok = keep(f, forebay_chat_render(template, text, strlen(text), &x->prompt, &err), &err);
    free(text);
    return ok;
}

bool fb_exchange_raw(struct fb_exchange *x, struct fb_fields *f, const char *text)
{
    struct forebay_error err;
    return !f->bad &&
           keep(f, forebay_prompt_from_text(x->server->model, text, strlen(text), &x->prompt, &err),
               &err);
}

bool fb_exchange_tokens(struct fb_exchange *x, struct fb_fields *f, const int32_t *tokens, size_t n)
{
    struct forebay_error err;
    return !f->bad &&
           keep(f, forebay_prompt_from_tokens(x->server->model, tokens, n, &x->prompt, &err), &err);
}

bool fb_exchange_raw_format(
    struct fb_exchange *x, struct fb_fields *f, const char *text, json_t *chat)
{
    struct forebay_error err;
    json_t *schema = json_object_get(chat, "json_schema");
    bool any = json_object_get(chat, "response_format") != NULL; /* any object */
    if ((schema || any) && !f->bad) {
        char *bytes =
            schema ? json_dumps(schema, JSON_COMPACT) : fb_xstrdup("{\"type\":\"object\"}");
        keep(f, forebay_schema_grammar(bytes, strlen(bytes), &x->grammar, &err), &err);
        free(bytes);
    }
    return fb_exchange_raw(x, f, text);
}

/* --- Jobs ---------------------------------------------------------------------------------- */

static void refuse(struct fb_exchange *x, enum fb_refusal refusal, const struct forebay_error *err)
{
    if (refusal == FB_BUSY) {
        fb_answer_error(x->request, x->api == FB_API_OLLAMA ? 503 : 429,
            "the server is busy: too many requests are waiting");
    } else if (refusal == FB_DRAINING) {
        fb_answer_error(x->request, 503, "the server is shutting down");
    } else {
        fb_answer_error(x->request, fb_http_status(err->status), "%s", err->message);
    }
}

static bool submit(struct fb_exchange *x)
{
    struct fb_job_options o = {
        .prompt = x->prompt,
        .sampling = x->sampling,
        .n_predict = x->n_predict,
        .stops = x->stops,
        .n_stops = x->n_stops,
        .n_top = x->n_top,
        .client = fb_request_client(x->request),
    };
    for (int c = 0; c < x->n_choices; c++) {
        struct forebay_error err = {0};
        o.sampling.seed = x->sampling.seed + (uint32_t)c;
        enum fb_refusal refusal =
            fb_service_submit(x->server->service, &o, &x->choices[c].job, &err);
        if (refusal != FB_ACCEPTED) {
            refuse(x, refusal, &err);
            return false;
        }
        if (x->parse) {
            forebay_reply_new(x->prompt, &x->choices[c].reply, NULL);
        }
    }
    return true;
}

/* --- Pieces -------------------------------------------------------------------------------- */

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
    for (size_t i = 0; i < n; i++) {
        choice->text_offset += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
}

/* Waits a while for one choice. */
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
        }
        write_text(x, c, piece.text, piece.length, false, out);
        return;
    }
    choice->result = fb_job_result(choice->job);
    if (choice->result->end != FB_END_FAILED && choice->result->end != FB_END_CANCELLED) {
        write_text(x, c, "", 0, true, out);
        x->dialect->finish(x, c, out);
    }
}

static bool has_failed(const struct fb_result *r)
{
    return r->end == FB_END_FAILED || r->end == FB_END_CANCELLED;
}

/* The status of a job that has failed, and why. */
static int failed_status(const struct fb_result *failed, const char **why)
{
    bool cancelled = failed->end == FB_END_CANCELLED;
    *why = cancelled ? "the request was cancelled" : failed->error.message;
    return cancelled ? 503 : fb_http_status(failed->error.status);
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

/* A status, and why, when there is no reason to go on; 0: there is. Looks now and then, however fast
 * the tokens come. A client that has closed its sending half looks like one that has left, which is
 * what nearly all of them have done: those that have not are told. */
static int is_in_vain(struct fb_exchange *x, const char **why)
{
    uint64_t now = fb_now_ns();
    if (now - x->looked_ns < LOOK_MS * (uint64_t)1000000) {
        return 0;
    }
    x->looked_ns = now;
    if (x->server->stopping) {
        *why = "the server is shutting down";
        return 503;
    }
    *why = "the client closed its half of the connection before it had the answer";
    return fb_request_left(x->request) ? 400 : 0;
}

/* Waits a while for anything. A status, and why, when a choice failed, or it is in vain; else 0. */
static int advance(struct fb_exchange *x, struct fb_buffer *out, const char **why)
{
    int c = x->turn;
    do {
        c = (c + 1) % x->n_choices;
    } while (x->choices[c].result && c != x->turn);
    x->turn = c;
    if (!x->choices[c].result) {
        advance_choice(x, c, x->n_choices > 1 ? TURN_MS : LOOK_MS, out);
    }
    if (x->choices[c].result && has_failed(x->choices[c].result)) {
        return failed_status(x->choices[c].result, why);
    }
    return all_ended(x) ? 0 : is_in_vain(x, why);
}

/* --- Streams ------------------------------------------------------------------------------- */

bool fb_exchange_advance(struct fb_exchange *x, struct fb_buffer *out)
{
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
    if (status) {
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
    if (out->n == 0 && now - x->said_ns > KEEP_ALIVE_NS && x->dialect->keep_alive) {
        x->dialect->keep_alive(out);
    }
    x->said_ns = out->n > 0 ? now : x->said_ns;
    return true;
}

/* A failure at once is an error like any other. So the first thing is waited for, but not for long:
 * clients want to see that something is going on. */
static void stream(struct fb_exchange *x)
{
    uint64_t start = fb_now_ns();
    const char *why;
    int status = 0;
    enum fb_job_state state = FB_JOB_TIMEOUT;
    while (state == FB_JOB_TIMEOUT && !status && fb_now_ns() - start < FIRST_WAIT_NS) {
        state = fb_job_peek(x->choices[0].job, LOOK_MS);
        status = is_in_vain(x, &why);
    }
    if (state == FB_JOB_ENDED && has_failed(fb_job_result(x->choices[0].job))) {
        status = failed_status(fb_job_result(x->choices[0].job), &why);
    }
    if (status) {
        fb_answer_error(x->request, status, "%s", why);
        fb_exchange_free(x);
    } else {
        fb_answer_stream(x->request, x->dialect->type, x);
    }
}

static void whole(struct fb_exchange *x)
{
    struct fb_buffer out = FB_BUFFER_INIT;
    const char *why;
    int status = 0;
    while (!status && !all_ended(x)) {
        status = advance(x, &out, &why);
    }
    if (status) {
        fb_answer_error(x->request, status, "%s", why);
    } else {
        fb_answer_json(x->request, 200, x->dialect->whole(x));
    }
    fb_buffer_release(&out);
    fb_exchange_free(x);
}

void fb_exchange_run(struct fb_exchange *x, const struct fb_fields *f)
{
    if (f->bad || !x->prompt) {
        fb_answer_error(x->request, 400, "%s", f->bad ? f->message : "there is no prompt");
        fb_exchange_free(x);
        return;
    }
    size_t n_prompt;
    uint32_t ctx = forebay_model_ctx(x->server->model);
    forebay_prompt_tokens(x->prompt, &n_prompt);
    if (n_prompt >= ctx) {
        char message[160];
        snprintf(message, sizeof message,
            "the prompt has %zu tokens; with a context of %u at most %u fit", n_prompt, ctx,
            ctx - 1);
        fb_answer_coded(x->request, 400, "context_length_exceeded", message);
        fb_exchange_free(x);
        return;
    }
    x->sampling.grammar = x->grammar;
    if (!submit(x)) {
        fb_exchange_free(x);
        return;
    }
    x->load_ns = fb_now_ns() - x->started_ns;
    if (x->stream) {
        stream(x);
    } else {
        whole(x);
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

json_t *fb_token_text(const struct fb_exchange *x, int32_t token)
{
    char piece[512];
    size_t n = forebay_token_bytes(x->server->model, token, piece, sizeof piece);
    json_t *text = json_stringn(piece, n);
    return text ? text : json_string("\xef\xbf\xbd");
}

json_t *fb_token_bytes(const struct fb_exchange *x, int32_t token)
{
    char piece[512];
    size_t n = forebay_token_bytes(x->server->model, token, piece, sizeof piece);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer((unsigned char)piece[i]));
    }
    return list;
}
