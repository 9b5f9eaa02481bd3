/*
 * anthropic.c - Anthropic's API: messages, and the count of their tokens.
 *
 * A request is converted to OpenAI's terms, which is what chat templates are rendered from: blocks
 * of text become text, tool_use becomes tool_calls, tool_result a message of its own. A reply is
 * written as blocks: thinking, text, tool_use; a stream opens and closes them one after the other.
 */
#include "serve/anthropic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/answer.h"
#include "serve/exchange.h"
#include "serve/json_text.h"

#define NO_BLOCK (-1)

/* fb_exchange.state */
struct anthropic_state {
    char id[48];
    int block;      /* index of the current block, or of the next one */
    int block_kind; /* an enum forebay_delta_kind, or NO_BLOCK: none is open */
};

static struct anthropic_state *state_of(const struct fb_exchange *x)
{
    return x->state;
}

/* --- Requests, in OpenAI's terms ----------------------------------------------------------- */

static void add_text(struct fb_buffer *out, const json_t *text)
{
    if (json_string_length(text) > 0) {
        fb_buffer_print(out, "%s", out->n > 0 ? "\n" : "");
        fb_buffer_add(out, json_string_value(text), json_string_length(text));
    }
}

/* Adds a block that is not text: what a tool has found. What the model cannot read is named, as the
 * conversation could not go on otherwise. */
static void add_found(struct fb_buffer *out, json_t *block, const char *type)
{
    json_t *source = json_object_get(block, "source"), *part;
    json_t *data = json_object_get(source, "data");
    const char *kind = json_string_value(json_object_get(source, "type"));
    size_t i;
    if (strcmp(type, "search_result") == 0) {
        add_text(out, json_object_get(block, "title"));
        add_text(out, source);
        json_array_foreach(json_object_get(block, "content"), i, part)
        {
            add_text(out, json_object_get(part, "text"));
        }
    } else if (strcmp(type, "tool_reference") == 0) {
        add_text(out, json_object_get(block, "tool_name"));
    } else if (strcmp(type, "document") == 0 && kind && strcmp(kind, "text") == 0 && data) {
        add_text(out, json_object_get(block, "title"));
        add_text(out, data);
    } else {
        fb_buffer_print(out, "%s[%.40s: not shown, as the model reads text only]",
            out->n > 0 ? "\n" : "", type);
    }
}

/* The text of a string or of a list of blocks; `what` names the field in errors. `found`: other
 * blocks than text are allowed. New reference, never NULL. */
static json_t *text_of(struct fb_fields *f, json_t *content, const char *what, bool found)
{
    struct fb_buffer text = FB_BUFFER_INIT;
    json_t *block;
    size_t i;
    if (json_is_string(content)) {
        return json_incref(content);
    }
    if (content && !json_is_null(content) && !json_is_array(content)) {
        fb_fields_fail(f, "%s must be a string or a list of text blocks", what);
    }
    json_array_foreach(content, i, block)
    {
        json_t *part = json_object_get(block, "text");
        const char *type = json_string_value(json_object_get(block, "type"));
        if (json_is_string(part)) {
            add_text(&text, part);
        } else if (found && type) {
            add_found(&text, block, type);
        } else {
            fb_fields_fail(f, "%s: only blocks of type text are supported", what);
            break;
        }
    }
    json_t *value = fb_json_text(text.data, text.n);
    fb_buffer_release(&text);
    return value;
}

static json_t *convert_call(struct fb_fields *f, json_t *block)
{
    const char *id = json_string_value(json_object_get(block, "id"));
    const char *name = json_string_value(json_object_get(block, "name"));
    json_t *input = json_object_get(block, "input");
    if (!id || !name) {
        fb_fields_fail(f, "messages: a tool_use block needs an id and a name");
        return NULL;
    }
    char *arguments = json_dumps(input, JSON_COMPACT);
    json_t *call = json_pack("{s:s,s:s,s:{s:s,s:s}}", "id", id, "type", "function", "function",
        "name", name, "arguments", arguments ? arguments : "{}");
    free(arguments);
    return call;
}

/* Converts the blocks of a message. Results of tools become messages of their own before it. */
static void convert_blocks(struct fb_fields *f, const char *role, json_t *content, json_t *messages)
{
    json_t *text = json_array(), *calls = json_array(), *block, *message;
    size_t i;
    json_array_foreach(content, i, block)
    {
        const char *type = json_string_value(json_object_get(block, "type"));
        if (type && strcmp(type, "text") == 0) {
            json_array_append(text, block);
        } else if (type && strcmp(type, "tool_use") == 0) {
            json_t *call = convert_call(f, block);
            if (call) {
                json_array_append_new(calls, call);
            }
        } else if (type && strcmp(type, "tool_result") == 0) {
            const char *id = json_string_value(json_object_get(block, "tool_use_id"));
            json_array_append_new(messages,
                json_pack("{s:s,s:s,s:o}", "role", "tool", "tool_call_id", id ? id : "", "content",
                    text_of(f, json_object_get(block, "content"), "tool_result", true)));
        } else if (!type ||
                   (strcmp(type, "thinking") != 0 && strcmp(type, "redacted_thinking") != 0)) {
            fb_fields_fail(f, "messages: blocks must be of type text, tool_use or tool_result%s%s",
                type ? ", not " : "", type ? type : "");
        }
    }
    if (json_array_size(text) + json_array_size(calls) > 0) {
        message =
            json_pack("{s:s,s:o}", "role", role, "content", text_of(f, text, "messages", false));
        if (json_array_size(calls) > 0) {
            json_object_set(message, "tool_calls", calls);
        }
        json_array_append_new(messages, message);
    }
    json_decref(text);
    json_decref(calls);
}

static void convert_messages(struct fb_fields *f, json_t *to)
{
    json_t *list = fb_field_array(f, "messages"), *message;
    size_t i;
    if (json_array_size(list) == 0) {
        fb_fields_fail(f, "messages must be a list of at least one message");
    }
    if (fb_field(f, "system")) {
        json_array_append_new(to, json_pack("{s:s,s:o}", "role", "system", "content",
                                      text_of(f, fb_field(f, "system"), "system", false)));
    }
    json_array_foreach(list, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        json_t *content = json_object_get(message, "content");
        if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 &&
                         strcmp(role, "system") != 0)) {
            fb_fields_fail(f, "messages: role must be user, assistant or system%s%.40s",
                role ? ", not " : "", role ? role : "");
        } else if (json_is_string(content)) {
            json_array_append_new(to, json_pack("{s:s,s:O}", "role", role, "content", content));
        } else if (json_is_array(content)) {
            convert_blocks(f, role, content, to);
        } else {
            fb_fields_fail(f, "messages: content must be a string or a list of blocks");
        }
    }
}

static void convert_tools(struct fb_fields *f, json_t *chat)
{
    json_t *tools = fb_field_array(f, "tools"), *tool, *list = json_array();
    size_t i;
    json_array_foreach(tools, i, tool)
    {
        json_t *name = json_object_get(tool, "name");
        json_t *description = json_object_get(tool, "description");
        json_t *schema = json_object_get(tool, "input_schema");
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (type && strcmp(type, "custom") != 0 && !schema) {
            fb_fields_fail(f, "tools: '%.60s' is run by Anthropic's servers, and not here", type);
            break;
        }
        if (!json_is_string(name) || !json_is_object(schema)) {
            fb_fields_fail(f, "tools: each tool needs a name and an input_schema");
            break;
        }
        json_t *function = json_pack("{s:O,s:O}", "name", name, "parameters", schema);
        if (json_is_string(description)) {
            json_object_set(function, "description", description);
        }
        json_array_append_new(
            list, json_pack("{s:s,s:o}", "type", "function", "function", function));
    }
    if (json_array_size(list) > 0) {
        json_object_set(chat, "tools", list);
    }
    json_decref(list);
}

static void convert_choice(struct fb_fields *f, json_t *chat)
{
    json_t *choice = fb_field_object(f, "tool_choice"), *name = json_object_get(choice, "name");
    const char *type = json_string_value(json_object_get(choice, "type"));
    if (!choice) {
        return;
    }
    if (json_is_true(json_object_get(choice, "disable_parallel_tool_use"))) {
        json_object_set_new(chat, "parallel_tool_calls", json_false());
    }
    if (type && strcmp(type, "tool") == 0 && json_is_string(name)) {
        json_object_set_new(chat, "tool_choice",
            json_pack("{s:s,s:{s:O}}", "type", "function", "function", "name", name));
    } else if (type && (strcmp(type, "auto") == 0 || strcmp(type, "none") == 0)) {
        json_object_set_new(chat, "tool_choice", json_string(type));
    } else if (type && strcmp(type, "any") == 0) {
        json_object_set_new(chat, "tool_choice", json_string("required"));
    } else {
        fb_fields_fail(f, "tool_choice: type must be auto, any, none, or tool with a name");
    }
}

/* output_config.format, or output_format as it was called at first; and output_config.effort. */
static void convert_output(struct fb_fields *f, json_t *chat)
{
    json_t *config = fb_field_object(f, "output_config");
    json_t *effort = json_object_get(config, "effort"), *format = json_object_get(config, "format");
    if (!format || json_is_null(format)) {
        format = fb_field(f, "output_format");
    }
    const char *type = json_string_value(json_object_get(format, "type"));
    json_t *schema = json_object_get(format, "schema");
    if (format && (!type || strcmp(type, "json_schema") != 0 || !json_is_object(schema))) {
        fb_fields_fail(f, "the format of the output must be of type json_schema, with a schema");
    } else if (format) {
        json_object_set(chat, "json_schema", schema);
    }
    if (json_is_string(effort)) {
        json_object_set(chat, "reasoning_effort", effort);
    } else if (effort && !json_is_null(effort)) {
        fb_fields_fail(f, "output_config: effort must be a string");
    }
}

static json_t *convert(struct fb_fields *f)
{
    json_t *chat = json_pack("{s:[]}", "messages");
    convert_messages(f, json_object_get(chat, "messages"));
    convert_tools(f, chat);
    convert_choice(f, chat);
    convert_output(f, chat);
    json_t *thinking = fb_field_object(f, "thinking");
    const char *type = json_string_value(json_object_get(thinking, "type"));
    if (type) {
        json_object_set_new(chat, "enable_thinking", json_boolean(strcmp(type, "disabled") != 0));
    }
    return chat;
}

/* Many templates refuse instructions in the midst of a conversation. Then they join the first. */
static void gather_system(json_t *messages)
{
    struct fb_buffer text = FB_BUFFER_INIT;
    json_t *message;
    for (size_t i = 0; i < json_array_size(messages);) {
        message = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        if (role && strcmp(role, "system") == 0) {
            add_text(&text, json_object_get(message, "content"));
            json_array_remove(messages, i);
        } else {
            i++;
        }
    }
    json_array_insert_new(messages, 0,
        json_pack("{s:s,s:o}", "role", "system", "content", fb_json_text(text.data, text.n)));
    fb_buffer_release(&text);
}

/* Makes the prompt of the request. */
static void render(struct fb_exchange *x, struct fb_fields *f)
{
    json_t *chat = convert(f), *messages = json_object_get(chat, "messages"), *message;
    size_t i, late = 0;
    json_array_foreach(messages, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        late += i > 0 && role && strcmp(role, "system") == 0;
    }
    bool good = !f->bad;
    fb_exchange_render(x, f, NULL, chat);
    if (good && f->bad && late > 0) {
        f->bad = false;
        gather_system(messages);
        fb_exchange_render(x, f, NULL, chat);
    }
    json_decref(chat);
}

/* --- Replies ------------------------------------------------------------------------------- */

static const char *stop_reason(const struct fb_choice *choice)
{
    struct forebay_message m;
    forebay_reply_message(choice->reply, &m);
    return choice->result->end == FB_END_LENGTH   ? "max_tokens"
           : m.n_calls > 0                        ? "tool_use"
           : choice->result->end == FB_END_STRING ? "stop_sequence"
                                                  : "end_turn";
}

static json_t *usage(const struct fb_exchange *x)
{
    json_int_t reused = fb_exchange_reused_tokens(x);
    return json_pack("{s:I,s:I,s:I,s:I}", "input_tokens",
        (json_int_t)fb_exchange_prompt_tokens(x) - reused, "cache_read_input_tokens", reused,
        "cache_creation_input_tokens", (json_int_t)0, "output_tokens",
        (json_int_t)fb_exchange_generated_tokens(x));
}

static json_t *parsed_input(const char *text)
{
    json_t *value = fb_json_parse(text, strlen(text), 0, NULL);
    return json_is_object(value) ? value : (json_decref(value), json_object());
}

static json_t *whole(struct fb_exchange *x)
{
    const struct fb_choice *choice = &x->choices[0];
    struct forebay_message m;
    json_t *content = json_array();
    forebay_reply_message(choice->reply, &m);
    if (m.reasoning_length > 0) {
        json_array_append_new(
            content, json_pack("{s:s,s:o,s:s}", "type", "thinking", "thinking",
                         fb_json_text(m.reasoning, m.reasoning_length), "signature", ""));
    }
    if (m.content_length > 0 || m.n_calls == 0) {
        json_array_append_new(content, json_pack("{s:s,s:o}", "type", "text", "text",
                                           fb_json_text(m.content, m.content_length)));
    }
    for (size_t i = 0; i < m.n_calls; i++) {
        json_array_append_new(
            content, json_pack("{s:s,s:s,s:s,s:o}", "type", "tool_use", "id", m.calls[i].id, "name",
                         m.calls[i].name, "input", parsed_input(m.calls[i].arguments)));
    }
    const char *reason = stop_reason(choice);
    bool by_string = strcmp(reason, "stop_sequence") == 0;
    return json_pack("{s:s,s:s,s:s,s:s,s:o,s:s,s:s?,s:o}", "id", state_of(x)->id, "type", "message",
        "role", "assistant", "model", x->model, "content", content, "stop_reason", reason,
        "stop_sequence", by_string ? choice->result->stop : NULL, "usage", usage(x));
}

/* --- Streams ------------------------------------------------------------------------------- */

static void write_event(struct fb_buffer *out, const char *name, json_t *object)
{
    json_object_set_new(object, "type", json_string(name));
    fb_buffer_print(out, "event: %s\ndata: ", name);
    fb_buffer_json(out, object);
    fb_buffer_print(out, "\n\n");
}

static void begin(struct fb_exchange *x, struct fb_buffer *out)
{
    write_event(out, "message_start",
        json_pack("{s:{s:s,s:s,s:s,s:s,s:[],s:n,s:n,s:o}}", "message", "id", state_of(x)->id,
            "type", "message", "role", "assistant", "model", x->model, "content", "stop_reason",
            "stop_sequence", "usage", usage(x)));
}

static void close_block(struct anthropic_state *s, struct fb_buffer *out)
{
    if (s->block_kind != NO_BLOCK) {
        write_event(out, "content_block_stop", json_pack("{s:i}", "index", s->block++));
        s->block_kind = NO_BLOCK;
    }
}

static void open_block(
    struct anthropic_state *s, const struct forebay_delta *d, struct fb_buffer *out)
{
    json_t *block =
        d->kind == FOREBAY_DELTA_TOOL_CALL ? json_pack("{s:s,s:s,s:s,s:{}}", "type", "tool_use",
                                                 "id", d->id, "name", d->name, "input")
        : d->kind == FOREBAY_DELTA_REASONING
            ? json_pack("{s:s,s:s,s:s}", "type", "thinking", "thinking", "", "signature", "")
            : json_pack("{s:s,s:s}", "type", "text", "text", "");
    close_block(s, out);
    write_event(out, "content_block_start",
        json_pack("{s:i,s:o}", "index", s->block, "content_block", block));
    s->block_kind = (int)d->kind;
}

static void delta(
    struct fb_exchange *x, int c, const struct forebay_delta *d, struct fb_buffer *out)
{
    (void)c;
    static const char *const types[] = {"text_delta", "thinking_delta", "input_json_delta"};
    static const char *const names[] = {"text", "thinking", "partial_json"};
    if (!x->stream) {
        return;
    }
    struct anthropic_state *s = state_of(x);
    if (d->name || s->block_kind != (int)d->kind) {
        open_block(s, d, out);
    }
    if (d->length > 0) {
        write_event(out, "content_block_delta",
            json_pack("{s:i,s:{s:s,s:o}}", "index", s->block, "delta", "type", types[d->kind],
                names[d->kind], fb_json_text(d->text, d->length)));
    }
}

static void finish(struct fb_exchange *x, int c, struct fb_buffer *out)
{
    const struct fb_choice *choice = &x->choices[c];
    if (!x->stream) {
        return;
    }
    close_block(state_of(x), out);
    const char *reason = stop_reason(choice);
    bool by_string = strcmp(reason, "stop_sequence") == 0;
    write_event(out, "message_delta",
        json_pack("{s:{s:s,s:s?},s:o}", "delta", "stop_reason", reason, "stop_sequence",
            by_string ? choice->result->stop : NULL, "usage", usage(x)));
    write_event(out, "message_stop", json_object());
}

static void fail(struct fb_exchange *x, int status, const char *message, struct fb_buffer *out)
{
    write_event(out, "error", fb_error_json(x->request->api, status, NULL, message));
}

static void keep_alive(struct fb_buffer *out)
{
    write_event(out, "ping", json_object());
}

static const struct fb_dialect dialect = {
    .type = "text/event-stream",
    .begin = begin,
    .delta = delta,
    .finish = finish,
    .fail = fail,
    .keep_alive = keep_alive,
    .whole = whole,
    .free_state = free,
};

/* --- Handlers ------------------------------------------------------------------------------ */

void fb_anthropic_messages(struct fb_request *r)
{
    struct fb_exchange *x = fb_exchange_new(r, &dialect);
    if (!x) {
        return;
    }
    struct fb_fields f = {.object = x->body};
    struct anthropic_state *s = x->state = fb_xcalloc(1, sizeof *s);
    snprintf(s->id, sizeof s->id, "msg_%.24s", x->id);
    s->block_kind = NO_BLOCK;
    x->model = fb_field_string(&f, "model", x->model);
    x->stream = fb_field_bool(&f, "stream", false);
    x->n_predict = fb_params_limit(&f, "max_tokens", -1);
    if (!fb_field(&f, "max_tokens")) {
        fb_fields_fail(&f, "max_tokens is missing; it must be an integer of at least 1");
    }
    fb_params_sampling(&f, &x->sampling, 2);
    x->n_stops = fb_params_stops(&f, "stop_sequences", x->stops);
    render(x, &f);
    fb_exchange_run(x, &f);
}

void fb_anthropic_count(struct fb_request *r)
{
    struct fb_exchange *x = fb_exchange_new(r, &dialect);
    if (!x) {
        return;
    }
    struct fb_fields f = {.object = x->body};
    render(x, &f);
    if (f.bad) {
        fb_answer_fields(r, &f);
    } else {
        size_t n;
        forebay_prompt_tokens(x->prompts[0], &n);
        fb_answer_json(r, 200, json_pack("{s:I}", "input_tokens", (json_int_t)n));
    }
    fb_exchange_free(x);
}
