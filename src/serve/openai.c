/*
 * openai.c - OpenAI's API: models, chat completions, completions.
 *
 * The two kinds of completions share the request's fields and the chunks of a stream; each has a
 * dialect. A chat request is passed to the chat template as it is.
 */
#include "serve/openai.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "serve/answer.h"
#include "serve/exchange.h"
#include "serve/prompts.h"

/* A choice of a reply. */
struct openai_choice {
    json_t *logprobs;      /* since the last chunk, or since the beginning; NULL: none */
    struct fb_buffer text; /* of a completion that is not streamed */
    size_t text_offset;    /* characters of a completion so far */
};

/* fb_exchange.state */
struct openai_state {
    char id[48];
    int64_t created_s; /* since the epoch */
    bool include_usage;
    struct openai_choice *choices; /* [n_choices] */
    int n_choices;
};

static struct openai_state *state_of(const struct fb_exchange *x)
{
    return x->state;
}

static struct openai_choice *choice_of(const struct fb_exchange *x, int c)
{
    struct openai_state *s = state_of(x);
    if (!s->choices) { /* how many there are is known when it runs */
        s->n_choices = x->n_choices;
        s->choices = fb_xcalloc((size_t)s->n_choices, sizeof *s->choices);
        for (int i = 0; i < s->n_choices; i++) {
            fb_buffer_init(&s->choices[i].text);
        }
    }
    return &s->choices[c];
}

static void free_state(void *state)
{
    struct openai_state *s = state;
    for (int c = 0; c < s->n_choices; c++) {
        json_decref(s->choices[c].logprobs);
        fb_buffer_release(&s->choices[c].text);
    }
    free(s->choices);
    free(s);
}

/* `prefix` of the answer's id: "chatcmpl". NULL: the request has been answered. */
static struct fb_exchange *begin(
    struct fb_request *r, const struct fb_dialect *dialect, const char *prefix)
{
    struct fb_exchange *x = fb_exchange_new(r, dialect);
    if (!x) {
        return NULL;
    }
    struct openai_state *s = x->state = fb_xcalloc(1, sizeof *s);
    s->created_s = (int64_t)time(NULL);
    snprintf(s->id, sizeof s->id, "%s-%.24s", prefix, x->id);
    return x;
}

/* --- Models -------------------------------------------------------------------------------- */

static json_t *model_object(const struct fb_served *s)
{
    return json_pack("{s:s,s:s,s:I,s:s,s:{s:I,s:I,s:I}}", "id", s->card.name, "object", "model",
        "created", (json_int_t)s->started_s, "owned_by", "forebay", "meta", "n_ctx",
        (json_int_t)forebay_model_ctx(s->model), "n_params", (json_int_t)s->card.parameters, "size",
        (json_int_t)s->card.file_bytes);
}

void fb_openai_models(struct fb_request *r)
{
    fb_answer_json(
        r, 200, json_pack("{s:s,s:[o]}", "object", "list", "data", model_object(r->served)));
}

void fb_openai_model(struct fb_request *r)
{
    if (fb_served_is_model(r->served, r->rest)) {
        fb_answer_json(r, 200, model_object(r->served));
    } else {
        fb_answer_no_model(r, r->rest);
    }
}

void fb_openai_embeddings(struct fb_request *r)
{
    fb_answer_error(r, 400, "embeddings are not supported: this server generates text");
}

/* --- Requests ------------------------------------------------------------------------------ */

/* Reads the fields that chat and text completions share. False: the request names another model,
 * has been answered, and the exchange is freed. */
static bool read_common(struct fb_exchange *x, struct fb_fields *f)
{
    const char *model = fb_field_string(f, "model", "");
    x->model = model[0] ? model : x->model;
    if (!fb_served_is_model(x->served, x->model)) {
        fb_answer_no_model(x->request, x->model);
        fb_exchange_free(x);
        return false;
    }
    x->stream = fb_field_bool(f, "stream", false);
    x->n = (int)fb_field_int(f, "n", 1, 1, FB_CHOICES_MAX);
    x->n_predict = fb_params_limit(f, "max_tokens", fb_params_limit(f, "n_predict", -1));
    fb_params_sampling(f, &x->sampling, 2);
    x->n_stops = fb_params_stops(f, "stop", x->stops);
    fb_exchange_biases(x, f);
    json_t *options = fb_field_object(f, "stream_options");
    if (options) {
        struct fb_fields inner = {.object = options};
        state_of(x)->include_usage = fb_field_bool(&inner, "include_usage", false);
        if (inner.bad) {
            fb_fields_fail(f, "stream_options: %s", inner.message);
        }
    }
    return true;
}

static json_t *usage(const struct fb_exchange *x)
{
    json_int_t prompt = fb_exchange_prompt_tokens(x), generated = fb_exchange_generated_tokens(x);
    return json_pack("{s:I,s:I,s:I,s:{s:I}}", "prompt_tokens", prompt, "completion_tokens",
        generated, "total_tokens", prompt + generated, "prompt_tokens_details", "cached_tokens",
        (json_int_t)fb_exchange_reused_tokens(x));
}

static const char *finish_reason(const struct fb_choice *choice)
{
    struct forebay_message message = {0};
    if (choice->reply) {
        forebay_reply_message(choice->reply, &message);
    }
    return choice->result->end == FB_END_LENGTH ? "length"
           : message.n_calls > 0                ? "tool_calls"
                                                : "stop";
}

/* --- Streams ------------------------------------------------------------------------------- */

static void write_event(struct fb_buffer *out, json_t *object)
{
    fb_buffer_print(out, "data: ");
    fb_buffer_json(out, object);
    fb_buffer_print(out, "\n\n");
}

static void keep_alive(struct fb_buffer *out)
{
    fb_buffer_print(out, ": still here\n\n");
}

static void fail(struct fb_exchange *x, int status, const char *message, struct fb_buffer *out)
{
    write_event(out, fb_error_json(x->request->api, status, NULL, message));
}

/* Writes a chunk with these choices; releases the reference. */
static void write_chunk(
    struct fb_exchange *x, const char *object, json_t *choices, struct fb_buffer *out)
{
    json_t *chunk = json_pack("{s:s,s:s,s:I,s:s,s:o}", "id", state_of(x)->id, "object", object,
        "created", (json_int_t)state_of(x)->created_s, "model", x->model, "choices", choices);
    if (state_of(x)->include_usage) {
        json_object_set_new(chunk, "usage", json_array_size(choices) == 0 ? usage(x) : json_null());
    }
    write_event(out, chunk);
}

static void write_end(struct fb_exchange *x, const char *object, struct fb_buffer *out)
{
    if (state_of(x)->include_usage) {
        write_chunk(x, object, json_array(), out);
    }
    fb_buffer_print(out, "data: [DONE]\n\n");
}

/* Returns the logprobs since the last chunk, or null. */
static json_t *take_logprobs(struct fb_exchange *x, int c)
{
    json_t *value = choice_of(x, c)->logprobs;
    choice_of(x, c)->logprobs = NULL;
    return value ? value : json_null();
}

/* --- Tokens as JSON ------------------------------------------------------------------------ */

static json_t *token_text(const struct fb_exchange *x, int32_t token)
{
    char piece[512];
    size_t n = forebay_token_bytes(x->served->model, token, piece, sizeof piece);
    json_t *text = json_stringn(piece, n);
    return text ? text : json_string("\xef\xbf\xbd");
}

static json_t *token_bytes(const struct fb_exchange *x, int32_t token)
{
    char piece[512];
    size_t n = forebay_token_bytes(x->served->model, token, piece, sizeof piece);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer((unsigned char)piece[i]));
    }
    return list;
}

/* --- Chat completions ---------------------------------------------------------------------- */

#define CHUNK "chat.completion.chunk"

static json_t *chat_logprob(const struct fb_exchange *x, int32_t token, float logprob)
{
    /* JSON has no infinity; OpenAI writes -9999. */
    return json_pack("{s:o,s:f,s:o}", "token", token_text(x, token), "logprob",
        isfinite(logprob) ? (double)logprob : -9999.0, "bytes", token_bytes(x, token));
}

static void chat_token(struct fb_exchange *x, int c, const struct fb_piece *piece)
{
    struct openai_choice *choice = choice_of(x, c);
    if (!choice->logprobs) {
        choice->logprobs = json_pack("{s:[],s:n}", "content", "refusal");
    }
    json_t *entry = chat_logprob(x, piece->token, piece->logprob), *top = json_array();
    for (int i = 0; i < piece->n_top; i++) {
        json_array_append_new(top, chat_logprob(x, piece->top[i].token, piece->top[i].logprob));
    }
    json_object_set_new(entry, "top_logprobs", top);
    json_array_append_new(json_object_get(choice->logprobs, "content"), entry);
}

static void write_delta(
    struct fb_exchange *x, int c, json_t *delta, const char *finish, struct fb_buffer *out)
{
    write_chunk(x, CHUNK,
        json_pack("[{s:i,s:o,s:o,s:s?}]", "index", c, "delta", delta, "logprobs",
            take_logprobs(x, c), "finish_reason", finish),
        out);
}

static void chat_begin(struct fb_exchange *x, struct fb_buffer *out)
{
    for (int c = 0; c < x->n_choices; c++) {
        write_delta(x, c, json_pack("{s:s,s:s}", "role", "assistant", "content", ""), NULL, out);
    }
}

static json_t *call_delta(const struct forebay_delta *d)
{
    json_t *text = fb_json_text(d->text, d->length);
    return d->name
               ? json_pack("{s:[{s:i,s:s,s:s,s:{s:s,s:o}}]}", "tool_calls", "index", d->call, "id",
                     d->id, "type", "function", "function", "name", d->name, "arguments", text)
               : json_pack("{s:[{s:i,s:{s:o}}]}", "tool_calls", "index", d->call, "function",
                     "arguments", text);
}

static void chat_delta(
    struct fb_exchange *x, int c, const struct forebay_delta *d, struct fb_buffer *out)
{
    if (!x->stream) {
        return;
    }
    json_t *delta =
        d->kind == FOREBAY_DELTA_TOOL_CALL
            ? call_delta(d)
            : json_pack("{s:o}", d->kind == FOREBAY_DELTA_CONTENT ? "content" : "reasoning_content",
                  fb_json_text(d->text, d->length));
    write_delta(x, c, delta, NULL, out);
}

static void chat_finish(struct fb_exchange *x, int c, struct fb_buffer *out)
{
    if (x->stream) {
        write_delta(x, c, json_object(), finish_reason(&x->choices[c]), out);
    }
}

static void chat_end(struct fb_exchange *x, struct fb_buffer *out)
{
    write_end(x, CHUNK, out);
}

static json_t *chat_message(const struct fb_choice *choice)
{
    struct forebay_message m;
    forebay_reply_message(choice->reply, &m);
    json_t *message = json_pack("{s:s,s:o}", "role", "assistant", "content",
        m.n_calls > 0 && m.content_length == 0 ? json_null()
                                               : fb_json_text(m.content, m.content_length));
    if (m.reasoning_length > 0) {
        json_object_set_new(
            message, "reasoning_content", fb_json_text(m.reasoning, m.reasoning_length));
    }
    json_t *calls = json_array();
    for (size_t i = 0; i < m.n_calls; i++) {
        json_array_append_new(
            calls, json_pack("{s:s,s:s,s:{s:s,s:o}}", "id", m.calls[i].id, "type", "function",
                       "function", "name", m.calls[i].name, "arguments",
                       fb_json_text(m.calls[i].arguments, strlen(m.calls[i].arguments))));
    }
    if (m.n_calls > 0) {
        json_object_set(message, "tool_calls", calls);
    }
    json_decref(calls);
    return message;
}

static json_t *chat_whole(struct fb_exchange *x)
{
    json_t *choices = json_array();
    for (int c = 0; c < x->n_choices; c++) {
        json_array_append_new(choices,
            json_pack("{s:i,s:o,s:o,s:s}", "index", c, "message", chat_message(&x->choices[c]),
                "logprobs", take_logprobs(x, c), "finish_reason", finish_reason(&x->choices[c])));
    }
    return json_pack("{s:s,s:s,s:I,s:s,s:o,s:o}", "id", state_of(x)->id, "object",
        "chat.completion", "created", (json_int_t)state_of(x)->created_s, "model", x->model,
        "choices", choices, "usage", usage(x));
}

static const struct fb_dialect chat_dialect = {
    .type = "text/event-stream",
    .begin = chat_begin,
    .token = chat_token,
    .delta = chat_delta,
    .finish = chat_finish,
    .end = chat_end,
    .fail = fail,
    .keep_alive = keep_alive,
    .whole = chat_whole,
    .free_state = free_state,
};

/* Checks the format, and writes it as the renderer expects it: json_schema or grammar. */
static void read_chat_format(struct fb_fields *f)
{
    json_t *schema;
    const char *grammar;
    bool calls = json_array_size(fb_field_array(f, "tools")) > 0;
    fb_params_format(f, &schema, &grammar);
    if (grammar && calls) {
        fb_fields_fail(f, "grammar and tools exclude each other");
    }
    json_object_del(f->object, "response_format");
    if (schema) {
        json_object_set_new(f->object, "json_schema", schema);
    }
}

/* Fields that would change the answer and are not supported. Other unknown ones have no effect. */
static void refuse_unsupported(struct fb_fields *f)
{
    static const char *const names[] = {"audio", "prediction", "web_search_options"};
    json_t *modalities = fb_field_array(f, "modalities"), *one;
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        if (fb_field(f, names[i])) {
            fb_fields_fail(f, "%s is not supported", names[i]);
        }
    }
    json_array_foreach(modalities, i, one)
    {
        if (!json_is_string(one) || strcmp(json_string_value(one), "text") != 0) {
            fb_fields_fail(f, "modalities: only \"text\" is supported");
        }
    }
}

void fb_openai_chat(struct fb_request *r)
{
    struct fb_exchange *x = begin(r, &chat_dialect, "chatcmpl");
    if (!x) {
        return;
    }
    struct fb_fields f = {.object = x->body};
    if (!read_common(x, &f)) {
        return;
    }
    x->n_predict = fb_params_limit(&f, "max_completion_tokens", x->n_predict);
    bool logprobs = fb_field_bool(&f, "logprobs", false);
    int64_t n_top = fb_field_int(&f, "top_logprobs", 0, 0, FB_TOP_MAX);
    if (fb_field(&f, "top_logprobs") && !logprobs) {
        fb_fields_fail(&f, "top_logprobs needs logprobs to be true");
    }
    x->n_top = logprobs ? (int)n_top : -1;
    fb_field_string(&f, "reasoning_effort", NULL);
    read_chat_format(&f);
    refuse_unsupported(&f);
    fb_exchange_render(x, &f, NULL, x->body);
    fb_exchange_run(x, &f);
}

/* --- Completions --------------------------------------------------------------------------- */

static void text_token(struct fb_exchange *x, int c, const struct fb_piece *piece)
{
    struct openai_choice *choice = choice_of(x, c);
    if (!choice->logprobs) {
        choice->logprobs = json_pack(
            "{s:[],s:[],s:[],s:[]}", "tokens", "token_logprobs", "top_logprobs", "text_offset");
    }
    json_t *top = json_object();
    for (int i = 0; i < piece->n_top; i++) {
        json_t *name = token_text(x, piece->top[i].token);
        json_object_set_new(top, json_string_value(name), json_real(piece->top[i].logprob));
        json_decref(name);
    }
    json_t *l = choice->logprobs;
    json_array_append_new(json_object_get(l, "tokens"), token_text(x, piece->token));
    json_array_append_new(json_object_get(l, "token_logprobs"), json_real(piece->logprob));
    json_array_append_new(json_object_get(l, "top_logprobs"), top);
    json_array_append_new(
        json_object_get(l, "text_offset"), json_integer((json_int_t)choice->text_offset));
}

static void write_text(
    struct fb_exchange *x, int c, json_t *text, const char *finish, struct fb_buffer *out)
{
    write_chunk(x, "text_completion",
        json_pack("[{s:i,s:o,s:o,s:s?}]", "index", c, "text", text, "logprobs", take_logprobs(x, c),
            "finish_reason", finish),
        out);
}

static void text_delta(
    struct fb_exchange *x, int c, const struct forebay_delta *d, struct fb_buffer *out)
{
    struct openai_choice *choice = choice_of(x, c);
    if (x->stream) {
        write_text(x, c, fb_json_text(d->text, d->length), NULL, out);
    } else {
        fb_buffer_add(&choice->text, d->text, d->length);
    }
    for (size_t i = 0; i < d->length; i++) {
        choice->text_offset += ((unsigned char)d->text[i] & 0xc0) != 0x80;
    }
}

static void text_finish(struct fb_exchange *x, int c, struct fb_buffer *out)
{
    if (x->stream) {
        write_text(x, c, json_string(""), finish_reason(&x->choices[c]), out);
    }
}

static void text_end(struct fb_exchange *x, struct fb_buffer *out)
{
    write_end(x, "text_completion", out);
}

static json_t *text_whole(struct fb_exchange *x)
{
    json_t *choices = json_array();
    for (int c = 0; c < x->n_choices; c++) {
        const struct fb_buffer *text = &choice_of(x, c)->text;
        json_array_append_new(choices,
            json_pack("{s:i,s:o,s:o,s:s}", "index", c, "text", fb_json_text(text->data, text->n),
                "logprobs", take_logprobs(x, c), "finish_reason", finish_reason(&x->choices[c])));
    }
    return json_pack("{s:s,s:s,s:I,s:s,s:o,s:o}", "id", state_of(x)->id, "object",
        "text_completion", "created", (json_int_t)state_of(x)->created_s, "model", x->model,
        "choices", choices, "usage", usage(x));
}

static const struct fb_dialect text_dialect = {
    .type = "text/event-stream",
    .token = text_token,
    .delta = text_delta,
    .finish = text_finish,
    .end = text_end,
    .fail = fail,
    .keep_alive = keep_alive,
    .whole = text_whole,
    .free_state = free_state,
};

void fb_openai_text(struct fb_request *r)
{
    struct fb_exchange *x = begin(r, &text_dialect, "cmpl");
    if (!x) {
        return;
    }
    struct fb_fields f = {.object = x->body};
    if (!read_common(x, &f)) {
        return;
    }
    if (!fb_field(&f, "max_tokens") && !fb_field(&f, "n_predict")) {
        x->n_predict = 16; /* OpenAI's default */
    }
    x->n_top = (int)fb_field_int(&f, "logprobs", -1, 0, FB_TOP_MAX);
    if (fb_field_bool(&f, "echo", false)) {
        fb_fields_fail(&f, "echo is not supported");
    }
    if (fb_field_int(&f, "best_of", x->n, 0, INT32_MAX) > x->n) {
        fb_fields_fail(&f, "best_of is not supported: all n choices are returned");
    }
    fb_exchange_format(x, &f, x->body);
    json_t *suffix = fb_field_text(&f, "suffix");
    if (json_string_length(suffix) > 0) {
        fb_exchange_infill(x, &f, fb_field_text(&f, "prompt"), suffix);
    } else {
        fb_exchange_prompts(x, &f, fb_field(&f, "prompt"), false);
    }
    fb_exchange_run(x, &f);
}
