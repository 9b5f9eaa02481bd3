/*
 * ollama.c - Ollama's API: generate and chat.
 *
 * Requests are converted to OpenAI's terms, which is what chat templates are rendered from. A
 * stream is lines of JSON; the last line, like an answer in one piece, has the statistics.
 */
#include "serve/ollama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "serve/answer.h"
#include "serve/exchange.h"
#include "serve/json_text.h"
#include "serve/prompts.h"

/* fb_exchange.state */
struct ollama_state {
    struct forebay_chat *template; /* of the request; NULL: none */
    struct fb_buffer text;         /* of a raw reply that is not streamed */
    json_t *logprobs;              /* since the last line; NULL: none */
};

static struct ollama_state *state_of(const struct fb_exchange *x)
{
    return x->state;
}

static void free_state(void *state)
{
    struct ollama_state *s = state;
    forebay_chat_free(s->template);
    fb_buffer_release(&s->text);
    json_decref(s->logprobs);
    free(s);
}

/* --- Requests ------------------------------------------------------------------------------ */

/* False: the request names another model, has been answered, and the exchange is freed. */
static bool check_model(struct fb_exchange *x, struct fb_fields *f)
{
    const char *name = fb_field_string(f, "model", NULL);
    if (!name) {
        fb_fields_fail(f, "model is missing; this server has '%s'", x->served->card.name);
    } else if (!fb_served_is_model(x->served, name)) {
        fb_answer_no_model(x->request, name);
        fb_exchange_free(x);
        return false;
    }
    x->model = name ? name : x->model;
    return true;
}

/* Options about how a model is loaded are checked for their types and have no effect: ours is
 * loaded already. */
static void check_loading_options(struct fb_fields *f)
{
    static const char *const numbers[] = {
        "num_keep", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"};
    static const char *const flags[] = {
        "numa", "low_vram", "vocab_only", "use_mmap", "use_mlock", "f16_kv", "penalize_newline"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        fb_field_int(f, numbers[i], 0, -1, INT32_MAX);
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        fb_field_bool(f, flags[i], false);
    }
    fb_field_number(f, "tfs_z", 1, 0, 100);
}

/* True for a duration as Go writes it: "1h30m", "-1s", "300ms", "0". */
static bool is_duration(const char *text)
{
    static const char *const units[] = {"ns", "us", "ms", "s", "m", "h"};
    text += *text == '-' || *text == '+';
    if (strcmp(text, "0") == 0) {
        return true;
    }
    bool any = false;
    while (*text) {
        size_t digits = strspn(text, "0123456789."), unit = 0;
        text += digits;
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            size_t n = strlen(units[i]);
            unit = strncmp(text, units[i], n) == 0 && n > unit ? n : unit;
        }
        if (digits == 0 || unit == 0) {
            return false;
        }
        text += unit;
        any = true;
    }
    return any;
}

static void read_options(struct fb_exchange *x, struct fb_fields *f)
{
    json_t *options = fb_field_object(f, "options");
    x->stream = fb_field_bool(f, "stream", true);
    bool logprobs = fb_field_bool(f, "logprobs", false);
    int64_t n_top = fb_field_int(f, "top_logprobs", 0, 0, FB_TOP_MAX);
    x->n_top = logprobs ? (int)n_top : -1;
    if (n_top > 0 && !logprobs) {
        fb_fields_fail(f, "top_logprobs needs logprobs to be true");
    }
    json_t *keep = fb_field(f, "keep_alive");
    if (keep && !json_is_number(keep) &&
        !(json_is_string(keep) && is_duration(json_string_value(keep)))) {
        fb_fields_fail(f, "keep_alive must be a number of seconds or a duration such as \"5m\"");
    }
    if (options) {
        struct fb_fields inner = {.object = options};
        fb_params_sampling(&inner, &x->sampling, 100);
        x->n_stops = fb_params_stops(&inner, "stop", x->stops);
        check_loading_options(&inner);
        /* -1 (without end), -2 (until the context is full) and 0 mean the same here. */
        int64_t limit = fb_field_int(&inner, "num_predict", -1, -2, INT32_MAX);
        x->n_predict = limit <= 0 ? -1 : limit;
        if (inner.bad) {
            fb_fields_fail(f, "options: %s", inner.message);
        }
    }
}

/* Starts an exchange and reads the fields that generate and chat share. NULL: the request has been
 * answered. */
static struct fb_exchange *begin(
    struct fb_request *r, const struct fb_dialect *dialect, struct fb_fields *f)
{
    struct fb_exchange *x = fb_exchange_new(r, dialect);
    if (!x) {
        return NULL;
    }
    struct ollama_state *s = x->state = fb_xcalloc(1, sizeof *s);
    fb_buffer_init(&s->text);
    *f = (struct fb_fields){.object = x->body};
    if (!check_model(x, f)) {
        return NULL;
    }
    read_options(x, f);
    return x;
}

/* Converts `format` and `think` to OpenAI's terms. */
static void read_format(struct fb_fields *f, json_t *chat)
{
    json_t *format = fb_field(f, "format"), *think = fb_field(f, "think");
    if (json_is_object(format)) {
        json_object_set(chat, "json_schema", format);
    } else if (json_is_string(format) && strcmp(json_string_value(format), "json") == 0) {
        json_object_set_new(chat, "response_format", json_pack("{s:s}", "type", "json_object"));
    } else if (format && !(json_is_string(format) && !json_string_length(format))) {
        fb_fields_fail(f, "format must be \"json\" or a JSON schema");
    }
    if (json_is_boolean(think)) {
        json_object_set(chat, "enable_thinking", think);
    } else if (json_is_string(think)) {
        json_object_set(chat, "reasoning_effort", think);
    } else if (think) {
        fb_fields_fail(f, "think must be true, false, \"high\", \"medium\" or \"low\"");
    }
}

/* --- Answers ------------------------------------------------------------------------------- */

static json_t *timestamp(void)
{
    char text[64];
    struct timespec now;
    struct tm tm;
    timespec_get(&now, TIME_UTC);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%06ldZ", now.tv_nsec / 1000);
    return json_string(text);
}

static json_t *new_line(const struct fb_exchange *x, bool done)
{
    return json_pack("{s:s,s:o,s:b}", "model", x->model, "created_at", timestamp(), "done", done);
}

static void write_line(struct fb_buffer *out, json_t *line)
{
    fb_buffer_json(out, line);
    fb_buffer_print(out, "\n");
}

static void set_ns(json_t *line, const char *name, double seconds)
{
    json_object_set_new(line, name, json_integer((json_int_t)(seconds * 1e9)));
}

static json_t *logprob_json(const struct fb_exchange *x, int32_t token, float logprob)
{
    char piece[512];
    size_t n = forebay_token_bytes(x->served->model, token, piece, sizeof piece);
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(bytes, json_integer((unsigned char)piece[i]));
    }
    return json_pack("{s:o,s:f,s:o}", "token", fb_json_text(piece, n), "logprob",
        isfinite(logprob) ? (double)logprob : -9999.0, "bytes", bytes);
}

static void note_token(struct fb_exchange *x, int c, const struct fb_piece *piece)
{
    (void)c;
    struct ollama_state *s = state_of(x);
    json_t *entry = logprob_json(x, piece->token, piece->logprob);
    if (piece->n_top > 0) {
        json_t *top = json_array();
        for (int i = 0; i < piece->n_top; i++) {
            json_array_append_new(top, logprob_json(x, piece->top[i].token, piece->top[i].logprob));
        }
        json_object_set_new(entry, "top_logprobs", top);
    }
    s->logprobs = s->logprobs ? s->logprobs : json_array();
    json_array_append_new(s->logprobs, entry);
}

/* Moves the logprobs since the last line into this one. */
static void add_logprobs(struct fb_exchange *x, json_t *line)
{
    struct ollama_state *s = state_of(x);
    if (s->logprobs) {
        json_object_set_new(line, "logprobs", s->logprobs);
        s->logprobs = NULL;
    }
}

static void add_figures(struct fb_exchange *x, json_t *line)
{
    const struct fb_result *r = x->choices[0].result;
    json_object_set_new(
        line, "done_reason", json_string(r->end == FB_END_LENGTH ? "length" : "stop"));
    set_ns(line, "total_duration", (double)(fb_now_ns() - x->started_ns) * 1e-9);
    set_ns(line, "load_duration", (double)(x->submitted_ns - x->started_ns) * 1e-9);
    json_object_set_new(line, "prompt_eval_count", json_integer(r->n_prompt));
    set_ns(line, "prompt_eval_duration", r->prompt_s);
    json_object_set_new(line, "eval_count", json_integer(r->n_generated));
    set_ns(line, "eval_duration", r->generate_s);
    add_logprobs(x, line);
}

static void fail(struct fb_exchange *x, int status, const char *message, struct fb_buffer *out)
{
    write_line(out, fb_error_json(x->request->api, status, NULL, message));
}

/* --- Generate ------------------------------------------------------------------------------ */

static void generate_delta(
    struct fb_exchange *x, int c, const struct forebay_delta *d, struct fb_buffer *out)
{
    const char *field = d->kind == FOREBAY_DELTA_REASONING ? "thinking" : "response";
    if (d->kind == FOREBAY_DELTA_TOOL_CALL) {
        return;
    }
    if (!x->stream) {
        if (!x->choices[c].reply) {
            fb_buffer_add(&state_of(x)->text, d->text, d->length);
        }
        return;
    }
    json_t *line = new_line(x, false);
    json_object_set_new(line, "response", json_string(""));
    json_object_set_new(line, field, fb_json_text(d->text, d->length));
    add_logprobs(x, line);
    write_line(out, line);
}

static void generate_finish(struct fb_exchange *x, int c, struct fb_buffer *out)
{
    (void)c;
    if (x->stream) {
        json_t *line = new_line(x, true);
        json_object_set_new(line, "response", json_string(""));
        add_figures(x, line);
        write_line(out, line);
    }
}

static json_t *generate_whole(struct fb_exchange *x)
{
    const struct fb_choice *choice = &x->choices[0];
    struct forebay_message m = {.content = "", .reasoning = ""};
    json_t *line = new_line(x, true);
    if (choice->reply) {
        forebay_reply_message(choice->reply, &m);
    }
    json_object_set_new(line, "response",
        choice->reply ? fb_json_text(m.content, m.content_length)
                      : fb_json_text(state_of(x)->text.data, state_of(x)->text.n));
    if (m.reasoning_length > 0) {
        json_object_set_new(line, "thinking", fb_json_text(m.reasoning, m.reasoning_length));
    }
    add_figures(x, line);
    return line;
}

static const struct fb_dialect generate_dialect = {
    .type = "application/x-ndjson",
    .token = note_token,
    .delta = generate_delta,
    .finish = generate_finish,
    .fail = fail,
    .whole = generate_whole,
    .free_state = free_state,
};

/* In Ollama an empty request loads or unloads the model. Ours is loaded and stays: only confirm. */
static void answer_empty(struct fb_exchange *x, const char *field, json_t *value)
{
    json_t *keep = fb_field(&(struct fb_fields){.object = x->body}, "keep_alive");
    bool unload = keep && ((json_is_number(keep) && json_number_value(keep) == 0) ||
                              (json_is_string(keep) && strcmp(json_string_value(keep), "0") == 0));
    json_t *line = new_line(x, true);
    json_object_set_new(line, "done_reason", json_string(unload ? "unload" : "load"));
    json_object_set_new(line, field, value);
    fb_answer_json(x->request, 200, line);
    fb_exchange_free(x);
}

static void use_template(struct fb_exchange *x, struct fb_fields *f, const char *text)
{
    struct forebay_error err;
    if (strstr(text, "{{ .") || strstr(text, "{{.") || strstr(text, "{{- .")) {
        fb_fields_fail(
            f, "template: Go templates are not supported; send a Jinja template, as in GGUF files");
    } else if (!x->served->client_templates) {
        fb_fields_fail(f, "template: this server accepts no templates from clients; start it with "
                          "--client-templates, or with --chat-template FILE");
    } else if (forebay_chat_new(x->served->model, text, &state_of(x)->template, &err) !=
               FOREBAY_OK) {
        fb_fields_fail(f, "template: %s", err.message);
    }
}

void fb_ollama_generate(struct fb_request *r)
{
    struct fb_fields f;
    struct fb_exchange *x = begin(r, &generate_dialect, &f);
    if (!x) {
        return;
    }
    json_t *prompt = fb_field_text(&f, "prompt"), *system = fb_field_text(&f, "system");
    json_t *suffix = fb_field_text(&f, "suffix");
    const char *template = fb_field_string(&f, "template", NULL);
    bool raw = fb_field_bool(&f, "raw", false), infill = json_string_length(suffix) > 0;
    if (json_array_size(fb_field_array(&f, "context")) > 0) {
        fb_fields_fail(&f, "context is not supported; send the conversation to /api/chat, which "
                           "computes only what is new of it");
    }
    if (json_array_size(fb_field_array(&f, "images")) > 0) {
        fb_fields_fail(&f, "images are not supported");
    }
    if (!f.bad && json_string_length(prompt) == 0 && !raw && !infill) {
        answer_empty(x, "response", json_string(""));
        return;
    }
    json_t *chat = json_pack("{s:[]}", "messages");
    json_t *messages = json_object_get(chat, "messages");
    json_t *text = prompt ? json_incref(prompt) : json_string("");
    if (json_string_length(system) > 0) {
        json_array_append_new(
            messages, json_pack("{s:s,s:O}", "role", "system", "content", system));
    }
    json_array_append_new(messages, json_pack("{s:s,s:O}", "role", "user", "content", text));
    read_format(&f, chat);
    if (template && template[0] && !raw) {
        use_template(x, &f, template);
    }
    if (raw || infill) {
        fb_exchange_format(x, &f, chat);
    }
    if (infill) {
        fb_exchange_infill(x, &f, text, suffix);
    } else if (raw) {
        fb_exchange_raw(x, &f, text);
    } else {
        fb_exchange_render(x, &f, state_of(x)->template, chat);
    }
    json_decref(text);
    json_decref(chat);
    fb_exchange_run(x, &f);
}

/* --- Chat ---------------------------------------------------------------------------------- */

static json_t *parsed_arguments(const char *text)
{
    json_t *value = fb_json_parse(text, strlen(text), JSON_DECODE_ANY, NULL);
    return value ? value : json_object();
}

static json_t *message_calls(const struct forebay_message *m)
{
    json_t *calls = json_array();
    for (size_t i = 0; i < m->n_calls; i++) {
        json_array_append_new(
            calls, json_pack("{s:{s:s,s:o}}", "function", "name", m->calls[i].name, "arguments",
                       parsed_arguments(m->calls[i].arguments)));
    }
    return calls;
}

static void chat_delta(
    struct fb_exchange *x, int c, const struct forebay_delta *d, struct fb_buffer *out)
{
    (void)c;
    if (!x->stream || d->kind == FOREBAY_DELTA_TOOL_CALL) { /* calls are written when complete */
        return;
    }
    json_t *text = fb_json_text(d->text, d->length), *line = new_line(x, false);
    json_object_set_new(line, "message",
        d->kind == FOREBAY_DELTA_CONTENT
            ? json_pack("{s:s,s:o}", "role", "assistant", "content", text)
            : json_pack("{s:s,s:s,s:o}", "role", "assistant", "content", "", "thinking", text));
    add_logprobs(x, line);
    write_line(out, line);
}

static void chat_finish(struct fb_exchange *x, int c, struct fb_buffer *out)
{
    struct forebay_message m;
    if (!x->stream) {
        return;
    }
    forebay_reply_message(x->choices[c].reply, &m);
    if (m.n_calls > 0) {
        json_t *line = new_line(x, false);
        json_object_set_new(line, "message",
            json_pack("{s:s,s:s,s:o}", "role", "assistant", "content", "", "tool_calls",
                message_calls(&m)));
        write_line(out, line);
    }
    json_t *line = new_line(x, true);
    json_object_set_new(
        line, "message", json_pack("{s:s,s:s}", "role", "assistant", "content", ""));
    add_figures(x, line);
    write_line(out, line);
}

static json_t *chat_whole(struct fb_exchange *x)
{
    struct forebay_message m;
    forebay_reply_message(x->choices[0].reply, &m);
    json_t *message = json_pack(
        "{s:s,s:o}", "role", "assistant", "content", fb_json_text(m.content, m.content_length));
    if (m.reasoning_length > 0) {
        json_object_set_new(message, "thinking", fb_json_text(m.reasoning, m.reasoning_length));
    }
    if (m.n_calls > 0) {
        json_object_set_new(message, "tool_calls", message_calls(&m));
    }
    json_t *line = new_line(x, true);
    json_object_set_new(line, "message", message);
    add_figures(x, line);
    return line;
}

static const struct fb_dialect chat_dialect = {
    .type = "application/x-ndjson",
    .token = note_token,
    .delta = chat_delta,
    .finish = chat_finish,
    .fail = fail,
    .whole = chat_whole,
    .free_state = free_state,
};

/* Converts tool calls to OpenAI's terms. Ollama's have no id or type, and their arguments are an
 * object. Ids are made of *number, which counts the calls of the request. */
static json_t *convert_calls(struct fb_fields *f, json_t *calls, int *number)
{
    json_t *list = json_array(), *call;
    size_t i;
    json_array_foreach(calls, i, call)
    {
        json_t *function = json_object_get(call, "function");
        json_t *name = json_object_get(function, "name");
        json_t *arguments = json_object_get(function, "arguments");
        if (!json_is_string(name)) {
            fb_fields_fail(f, "a tool call needs a function with a name");
            break;
        }
        char id[32];
        snprintf(id, sizeof id, "call_%d", (*number)++);
        char *text = arguments ? json_dumps(arguments, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
        json_array_append_new(list, json_pack("{s:s,s:s,s:{s:O,s:s}}", "id", id, "type", "function",
                                        "function", "name", name, "arguments", text ? text : "{}"));
        free(text);
    }
    return list;
}

static json_t *convert_message(struct fb_fields *f, json_t *message, int *number)
{
    struct fb_fields m = {.object = message};
    if (!json_is_object(message)) {
        fb_fields_fail(f, "messages must be a list of objects");
        return NULL;
    }
    const char *role = fb_field_string(&m, "role", NULL);
    json_t *thinking = fb_field_text(&m, "thinking"), *content = fb_field_text(&m, "content");
    const char *tool = fb_field_string(&m, "tool_name", NULL);
    json_t *calls = fb_field_array(&m, "tool_calls");
    if (!role) {
        fb_fields_fail(&m, "role is missing; it must be a string");
    }
    bool images = json_array_size(fb_field_array(&m, "images")) > 0;
    bool found = images && role && strcmp(role, "tool") == 0; /* by a tool: see chat_fields.c */
    if (images && !found) {
        fb_fields_fail(&m, "images are not supported");
    }
    json_t *out = json_pack("{s:s,s:o}", "role", role ? role : "", "content",
        found     ? json_sprintf("%s\n[image: not shown, as the model reads text only]",
                    content ? json_string_value(content) : "")
        : content ? json_incref(content)
                  : json_string(""));
    if (thinking) {
        json_object_set(out, "reasoning_content", thinking);
    }
    if (tool) {
        json_object_set_new(out, "name", json_string(tool));
    }
    if (json_array_size(calls) > 0) {
        json_object_set_new(out, "tool_calls", convert_calls(&m, calls, number));
    }
    if (m.bad) {
        fb_fields_fail(f, "messages: %s", m.message);
    }
    return out;
}

static json_t *convert_chat(struct fb_fields *f)
{
    json_t *messages = fb_field_array(f, "messages"), *message, *tools = fb_field_array(f, "tools");
    json_t *chat = json_pack("{s:[]}", "messages");
    size_t i;
    int number = 0;
    json_array_foreach(messages, i, message)
    {
        json_t *converted = convert_message(f, message, &number);
        if (converted) {
            json_array_append_new(json_object_get(chat, "messages"), converted);
        }
    }
    if (tools) {
        json_object_set(chat, "tools", tools);
    }
    read_format(f, chat);
    return chat;
}

void fb_ollama_chat(struct fb_request *r)
{
    struct fb_fields f;
    struct fb_exchange *x = begin(r, &chat_dialect, &f);
    if (!x) {
        return;
    }
    json_t *messages = fb_field_array(&f, "messages");
    if (!f.bad && json_array_size(messages) == 0) {
        answer_empty(x, "message", json_pack("{s:s,s:s}", "role", "assistant", "content", ""));
        return;
    }
    json_t *chat = convert_chat(&f);
    fb_exchange_render(x, &f, NULL, chat);
    json_decref(chat);
    fb_exchange_run(x, &f);
}
