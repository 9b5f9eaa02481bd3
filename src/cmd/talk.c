/*
 * talk.c - a conversation is a list of messages. Before each answer all of it is rendered into a
 * prompt by the model's template, and the session keeps the tokens that the prompt begins with:
 *
 *      messages --template--> prompt: | tokens in the session | other tokens |
 *                                       reused                  computed
 *
 * Invariant: the first forebay_session_n_past() entries of `held` are the tokens in the session.
 */
#include "cmd/talk.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/files.h"

struct talk {
    struct forebay_model *model;
    struct forebay_session *session;
    struct forebay_chat *chat;
    struct talk_options options;
    json_t *messages; /* as in OpenAI's API */
    int32_t *held;    /* [context] */
};

/* The state of an answer that is being generated. */
struct answer {
    struct forebay_prompt *prompt;
    struct forebay_sampler *sampler;
    struct forebay_text *text;
    struct forebay_reply *reply;
    talk_sink sink;
    void *user;
};

enum forebay_status talk_new(struct forebay_model *model, const struct talk_options *options,
    struct talk **out, struct forebay_error *err)
{
    struct talk *talk = fb_xcalloc(1, sizeof *talk);
    talk->model = model;
    talk->options = *options;
    talk->messages = json_array();
    talk->held = fb_xmalloc(forebay_model_ctx(model) * sizeof *talk->held);
    enum forebay_status status = forebay_chat_new(model, NULL, &talk->chat, err);
    if (status == FOREBAY_OK) {
        status = forebay_session_new(model, &talk->session, err);
    }
    if (status != FOREBAY_OK) {
        talk_free(talk);
        return status;
    }
    *out = talk;
    return FOREBAY_OK;
}

void talk_free(struct talk *talk)
{
    if (talk) {
        forebay_session_free(talk->session);
        forebay_chat_free(talk->chat);
        json_decref(talk->messages);
        free(talk->held);
        free(talk);
    }
}

struct forebay_session *talk_session(struct talk *talk)
{
    return talk->session;
}

/* --- Messages ------------------------------------------------------------------------------ */

static enum forebay_status new_message(
    const char *role, const char *text, size_t n, json_t **out, struct forebay_error *err)
{
    json_t *content = memchr(text, 0, n) ? NULL : json_stringn(text, n);
    if (!content) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "the text is not valid UTF-8, or contains a NUL");
    }
    *out = json_pack("{s:s, s:o}", "role", role, "content", content);
    return FOREBAY_OK;
}

static const char *string_of(const json_t *message, const char *key)
{
    return json_string_value(json_object_get(message, key));
}

const char *talk_system(const struct talk *talk)
{
    const json_t *first = json_array_get(talk->messages, 0);
    const char *role = string_of(first, "role");
    return role && strcmp(role, "system") == 0 ? string_of(first, "content") : NULL;
}

enum forebay_status talk_set_system(struct talk *talk, const char *text, struct forebay_error *err)
{
    json_t *message = NULL;
    enum forebay_status status =
        *text ? new_message("system", text, strlen(text), &message, err) : FOREBAY_OK;
    if (status != FOREBAY_OK) {
        return status;
    }
    if (talk_system(talk)) {
        json_array_remove(talk->messages, 0);
    }
    if (message) {
        json_array_insert_new(talk->messages, 0, message);
    }
    return FOREBAY_OK;
}

void talk_clear(struct talk *talk)
{
    json_t *system = talk_system(talk) ? json_incref(json_array_get(talk->messages, 0)) : NULL;
    json_array_clear(talk->messages);
    if (system) {
        json_array_append_new(talk->messages, system);
    }
}

size_t talk_n_messages(const struct talk *talk)
{
    return json_array_size(talk->messages);
}

/* --- Files --------------------------------------------------------------------------------- */

enum forebay_status talk_save(const struct talk *talk, const char *path, struct forebay_error *err)
{
    const struct named_file file = {"/save", path, true};
    json_t *object = json_pack("{s:O}", "messages", talk->messages);
    char *text = json_dumps(object, JSON_INDENT(2));
    size_t length = strlen(text);
    json_decref(object);
    text = fb_xrealloc(text, length + 2);
    memcpy(text + length, "\n", 2);
    enum forebay_status status = files_write(&file, text, length + 1, err);
    free(text);
    return status;
}

static bool is_message(const json_t *message)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const char *role = string_of(message, "role");
    bool known = false;
    for (size_t i = 0; role && i < sizeof roles / sizeof roles[0]; i++) {
        known = known || strcmp(role, roles[i]) == 0;
    }
    return known && string_of(message, "content");
}

static enum forebay_status render(const struct talk *talk, const json_t *messages,
    struct forebay_prompt **out, struct forebay_error *err);

enum forebay_status talk_load(struct talk *talk, const char *path, struct forebay_error *err)
{
    static const char hint[] = "Give a file that /save wrote.";
    json_error_t why;
    json_t *file = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!file) {
        return fb_fail(err, FOREBAY_E_FORMAT, hint, "cannot load %s: %s", path, why.text);
    }
    json_t *messages = json_object_get(file, "messages"), *message;
    enum forebay_status status = FOREBAY_OK;
    size_t i;
    if (!json_is_array(messages)) {
        status = fb_fail(err, FOREBAY_E_FORMAT, hint, "%s contains no list of messages", path);
    }
    json_array_foreach(messages, i, message)
    {
        if (status == FOREBAY_OK && !is_message(message)) {
            status = fb_fail(err, FOREBAY_E_FORMAT, hint,
                "%s: entry %zu of \"messages\" is not a message", path, i + 1);
        }
    }
    struct forebay_prompt *prompt = NULL;
    if (status == FOREBAY_OK && json_array_size(messages) > 0) { /* the template may reject it */
        status = render(talk, messages, &prompt, err);
    }
    forebay_prompt_free(prompt);
    if (status == FOREBAY_OK) {
        json_decref(talk->messages);
        talk->messages = json_incref(messages);
    }
    json_decref(file);
    return status;
}

/* --- The prompt ---------------------------------------------------------------------------- */

static enum forebay_status render(const struct talk *talk, const json_t *messages,
    struct forebay_prompt **out, struct forebay_error *err)
{
    json_t *request =
        json_pack("{s:O, s:b}", "messages", messages, "enable_thinking", !talk->options.no_think);
    char *text = json_dumps(request, JSON_COMPACT);
    enum forebay_status status =
        forebay_chat_render(talk->chat, text, strlen(text), NULL, NULL, out, err);
    free(text);
    json_decref(request);
    return status;
}

/* Cuts the session to the tokens that it has in common with the prompt, except the prompt's last
 * token, whose logits are needed. Returns the number of tokens left; 0 for recurrent models that
 * cannot be cut. */
static uint32_t keep_common(struct talk *talk, const int32_t *tokens, size_t n)
{
    uint32_t past = forebay_session_n_past(talk->session), common = 0;
    while (common < past && common + 1 < n && talk->held[common] == tokens[common]) {
        common++;
    }
    return forebay_session_keep(talk->session, common);
}

static enum forebay_status eval(
    struct talk *talk, const int32_t *tokens, uint32_t n, struct forebay_error *err)
{
    uint32_t past = forebay_session_n_past(talk->session);
    enum forebay_status status = forebay_eval(talk->session, tokens, n, false, err);
    if (status == FOREBAY_OK) {
        memcpy(talk->held + past, tokens, n * sizeof *tokens);
    }
    return status;
}

/* Evaluates the prompt; *stop is checked between passes. */
static enum forebay_status eval_prompt(struct talk *talk, const struct forebay_prompt *prompt,
    struct talk_turn *turn, struct forebay_error *err)
{
    size_t n;
    const int32_t *tokens = forebay_prompt_tokens(prompt, &n);
    uint32_t ctx = forebay_model_ctx(talk->model);
    if (n >= ctx) {
        return fb_fail(err, FOREBAY_E_USAGE,
            "/new starts a new conversation; --ctx sets the size of the context.",
            "the conversation of %zu tokens does not fit into the context of %u", n, ctx);
    }
    uint32_t done = keep_common(talk, tokens, n);
    turn->reused_tokens = done;
    enum forebay_status status = FOREBAY_OK;
    while (status == FOREBAY_OK && done < n && !*talk->options.stop) {
        uint32_t count = (uint32_t)fb_min(n - done, talk->options.batch);
        status = eval(talk, tokens + done, count, err);
        done += status == FOREBAY_OK ? count : 0;
        if (talk->options.progress) {
            talk->options.progress(
                "evaluating the conversation", done, n, talk->options.progress_user);
        }
    }
    turn->computed_tokens = done - turn->reused_tokens;
    turn->end = done < n ? TALK_STOPPED : TALK_ENDED;
    return status;
}

/* --- The answer ---------------------------------------------------------------------------- */

static void answer_release(struct answer *a)
{
    forebay_reply_free(a->reply);
    forebay_text_free(a->text);
    forebay_sampler_free(a->sampler);
    forebay_prompt_free(a->prompt);
}

static enum forebay_status answer_init(
    const struct talk *talk, struct answer *a, struct forebay_error *err)
{
    enum forebay_status status = render(talk, talk->messages, &a->prompt, err);
    if (status == FOREBAY_OK) {
        status =
            forebay_sampler_new(talk->model, &talk->options.sampling, a->prompt, &a->sampler, err);
    }
    if (status == FOREBAY_OK) {
        status = forebay_text_new(talk->model, a->prompt, NULL, 0, &a->text, err);
    }
    if (status == FOREBAY_OK) {
        status = forebay_reply_new(a->prompt, &a->reply, err);
    }
    return status;
}

/* Passes a piece of generated text to the sink, as content or reasoning. */
static enum forebay_status show(
    struct answer *a, const char *text, size_t n, bool last, struct forebay_error *err)
{
    const struct forebay_delta *deltas;
    size_t n_deltas;
    enum forebay_status status =
        forebay_reply_add(a->reply, text, n, last, &deltas, &n_deltas, err);
    for (size_t i = 0; status == FOREBAY_OK && i < n_deltas; i++) {
        if (deltas[i].kind != FOREBAY_DELTA_TOOL_CALL && deltas[i].length > 0 &&
            !a->sink(deltas[i].kind, deltas[i].text, deltas[i].length, a->user)) {
            status = fb_fail_errno(err, FOREBAY_E_IO, errno, "", "cannot write to standard output");
        }
    }
    return status;
}

/* True if the answer ends after the token just shown; sets turn->end. */
static bool is_over(const struct talk *talk, const struct answer *a, struct talk_turn *turn)
{
    if (forebay_text_stop(a->text)) {
        turn->end = TALK_ENDED;
    } else if (*talk->options.stop) {
        turn->end = TALK_STOPPED;
    } else if (turn->generated_tokens == talk->options.max_tokens) {
        turn->end = TALK_LIMIT;
    } else if (forebay_session_n_past(talk->session) == forebay_model_ctx(talk->model)) {
        turn->end = TALK_FULL;
    } else {
        return false;
    }
    return true;
}

/* Samples until the answer ends. The prompt has been evaluated. */
static enum forebay_status generate(
    struct talk *talk, struct answer *a, struct talk_turn *turn, struct forebay_error *err)
{
    turn->end = TALK_ENDED;
    for (;;) {
        int32_t token;
        size_t n;
        enum forebay_status status =
            forebay_sampler_pick(a->sampler, talk->session, 0, &token, err);
        if (status != FOREBAY_OK || forebay_model_is_eog(talk->model, token)) {
            return status;
        }
        turn->generated_tokens++;
        const char *text = forebay_text_add(a->text, token, &n);
        status = show(a, text, n, false, err);
        if (status != FOREBAY_OK || is_over(talk, a, turn)) {
            return status;
        }
        status = eval(talk, &token, 1, err);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
}

/* Shows the text that was held back, and adds the answer to the conversation. */
static enum forebay_status conclude(struct talk *talk, struct answer *a, struct forebay_error *err)
{
    size_t n;
    const char *text = forebay_text_end(a->text, &n);
    enum forebay_status status = show(a, text, n, true, err);
    if (status == FOREBAY_OK) {
        struct forebay_message message;
        forebay_reply_message(a->reply, &message);
        json_t *m = json_pack("{s:s, s:o}", "role", "assistant", "content",
            json_stringn(message.content, message.content_length));
        if (message.reasoning_length > 0) {
            json_object_set_new(
                m, "reasoning_content", json_stringn(message.reasoning, message.reasoning_length));
        }
        json_array_append_new(talk->messages, m);
    }
    return status;
}

static enum forebay_status answer(
    struct talk *talk, struct answer *a, struct talk_turn *turn, struct forebay_error *err)
{
    enum forebay_status status = answer_init(talk, a, err);
    if (status == FOREBAY_OK) {
        status = eval_prompt(talk, a->prompt, turn, err);
    }
    if (status != FOREBAY_OK || turn->end == TALK_STOPPED) {
        return status;
    }
    size_t n;
    const int32_t *tokens = forebay_prompt_tokens(a->prompt, &n);
    for (size_t i = 0; i < n; i++) {
        forebay_sampler_accept(a->sampler, tokens[i]);
    }
    uint64_t start_ns = fb_now_ns();
    status = generate(talk, a, turn, err);
    double seconds = (double)(fb_now_ns() - start_ns) * 1e-9;
    turn->tok_per_s = (forebay_session_n_past(talk->session) - (double)n) / seconds;
    return status == FOREBAY_OK ? conclude(talk, a, err) : status;
}

enum forebay_status talk_say(struct talk *talk, const char *text, size_t n, talk_sink sink,
    void *user, struct talk_turn *turn, struct forebay_error *err)
{
    json_t *message = NULL;
    enum forebay_status status = new_message("user", text, n, &message, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct forebay_stats before, after;
    struct talk_turn t = {0};
    struct answer a = {.sink = sink, .user = user};
    size_t n_before = json_array_size(talk->messages);
    json_array_append_new(talk->messages, message);
    forebay_stats_get(talk->session, &before);
    status = answer(talk, &a, &t, err);
    forebay_stats_get(talk->session, &after);
    if (json_array_size(talk->messages) == n_before + 1) { /* no answer: remove the message, too */
        json_array_remove(talk->messages, n_before);
    }
    answer_release(&a);
    uint64_t requests = after.expert_requests - before.expert_requests;
    uint64_t hits = after.expert_hits - before.expert_hits;
    t.hit_rate = requests ? (double)hits / (double)requests : -1;
    if (status == FOREBAY_OK) {
        *turn = t;
    }
    return status;
}
