/* reply.cpp - divides generated text into content, reasoning and tool calls, with llama.cpp's
 * parsers. Each addition parses all text so far again; deltas are the differences. */
#include <algorithm>
#include <random>

#include "engine/guard.h"
#include "engine/prompt.h"

extern "C" {
#include "base/error.h"
}

struct forebay_reply {
    const forebay_prompt *prompt;
    std::string text;
    common_chat_msg message;
    /* Of a continued message: the length of what the prompt ends with, which the parser repeats. */
    size_t given_content = 0, given_reasoning = 0;
    std::vector<std::string> call_ids;
    size_t n_begun = 0; /* tool calls whose names were reported */

    /* Results of the last call. */
    std::vector<common_chat_msg_diff> diffs;
    std::vector<forebay_delta> deltas;
    mutable std::vector<forebay_tool_call> calls;
};

enum forebay_status forebay_reply_new(
    const struct forebay_prompt *prompt, struct forebay_reply **out, struct forebay_error *)
{
    auto reply = new forebay_reply;
    std::string why;
    reply->prompt = prompt;
    if (prompt->parsed && prompt->parser.is_continuation) {
        fb_guarded(
            [&] {
                reply->message = common_chat_parse("", true, prompt->parser);
                reply->given_content = reply->message.content.size();
                reply->given_reasoning = reply->message.reasoning_content.size();
                return true;
            },
            why);
    }
    *out = reply;
    return FOREBAY_OK;
}

void forebay_reply_free(struct forebay_reply *reply)
{
    delete reply;
}

static std::string new_call_id()
{
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    std::random_device random;
    std::string id = "call_";
    for (int i = 0; i < 24; i++) {
        id += letters[random() % (sizeof letters - 1)];
    }
    return id;
}

/* Reports the names of the first n calls, which are complete. */
static void begin_calls(struct forebay_reply *r, size_t n)
{
    for (; r->n_begun < n && r->n_begun < r->message.tool_calls.size(); r->n_begun++) {
        const auto &call = r->message.tool_calls[r->n_begun];
        r->deltas.push_back(
            {FOREBAY_DELTA_TOOL_CALL, "", 0, (int)r->n_begun, call.name.c_str(), call.id.c_str()});
    }
}

/* Fills the deltas from the differences. */
static void fill_deltas(struct forebay_reply *r, bool last)
{
    for (const auto &d : r->diffs) {
        if (!d.reasoning_content_delta.empty()) {
            r->deltas.push_back({FOREBAY_DELTA_REASONING, d.reasoning_content_delta.c_str(),
                d.reasoning_content_delta.size(), 0, nullptr, nullptr});
        }
        if (!d.content_delta.empty()) {
            r->deltas.push_back({FOREBAY_DELTA_CONTENT, d.content_delta.c_str(),
                d.content_delta.size(), 0, nullptr, nullptr});
        }
        if (d.tool_call_index == std::string::npos) {
            continue;
        }
        const std::string &arguments = d.tool_call_delta.arguments;
        begin_calls(r, arguments.empty() ? d.tool_call_index : d.tool_call_index + 1);
        if (!arguments.empty()) {
            r->deltas.push_back({FOREBAY_DELTA_TOOL_CALL, arguments.c_str(), arguments.size(),
                (int)d.tool_call_index, nullptr, nullptr});
        }
    }
    if (last) {
        begin_calls(r, r->message.tool_calls.size());
    }
}

/* Parses all text so far, and finds the differences from before. */
static void parse(struct forebay_reply *r, bool last)
{
    common_chat_msg now = common_chat_parse(r->text, !last, r->prompt->parser);
    if (now.empty()) {
        return;
    }
    now.set_tool_call_ids(r->call_ids, new_call_id);
    r->diffs = common_chat_msg_diff::compute_diffs(r->message, now);
    r->message = now;
}

static void add_content(struct forebay_reply *r, const char *text, size_t n)
{
    common_chat_msg_diff diff;
    diff.content_delta.assign(text, n);
    r->message.content.append(text, n);
    r->diffs.push_back(diff);
}

enum forebay_status forebay_reply_add(struct forebay_reply *r, const char *text, size_t n,
    bool last, const struct forebay_delta **deltas, size_t *n_deltas, struct forebay_error *)
{
    std::string why;
    r->text.append(text, n);
    r->diffs.clear();
    r->deltas.clear();
    if (!r->prompt->parsed) {
        if (n > 0) {
            add_content(r, text, n);
        }
    } else if ((n > 0 || last) && !fb_guarded([&] { return parse(r, last), true; }, why)) {
        /* Not, or not yet, in the model's format. If it never is, it is content. */
        if (last && r->message.content.size() == r->given_content &&
            r->message.reasoning_content.size() == r->given_reasoning &&
            r->message.tool_calls.empty()) {
            add_content(r, r->text.data(), r->text.size());
        }
    }
    fill_deltas(r, last);
    *deltas = r->deltas.data();
    *n_deltas = r->deltas.size();
    return FOREBAY_OK;
}

void forebay_reply_message(const struct forebay_reply *r, struct forebay_message *out)
{
    r->calls.clear();
    for (const auto &call : r->message.tool_calls) {
        r->calls.push_back({call.id.c_str(), call.name.c_str(), call.arguments.c_str()});
    }
    const std::string &content = r->message.content, &reasoning = r->message.reasoning_content;
    size_t given = std::min(content.size(), r->given_content);
    size_t given_reasoning = std::min(reasoning.size(), r->given_reasoning);
    *out = {content.c_str() + given, reasoning.c_str() + given_reasoning, content.size() - given,
        reasoning.size() - given_reasoning, r->calls.data(), r->calls.size()};
}
