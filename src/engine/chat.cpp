/*
 * chat.cpp - renders conversations to prompts with llama.cpp's chat templates.
 *
 *      request (JSON) --> names of control tokens in messages marked (control_tokens.h)
 *          |
 *          v
 *      bounds checked (nesting.h), fields read --> llama.cpp's template inputs
 *          |
 *          v
 *      template applied --> prompt: text, tokens, stop strings, grammar, how to parse the reply
 *
 * Errors in a request are std::invalid_argument inside; fb_guarded_status makes them E_USAGE.
 *
 * Templates are programs of strangers: of whoever made the model file, or with --client-templates
 * of a client. They are parsed, run and freed on a thread with a large stack, within limits
 * (work_limit.h).
 */
#include <algorithm>
#include <cstring>

#include "common/chat.h"
#include "common/json-schema-to-grammar.h"
#include "engine/control_tokens.h"
#include "engine/guard.h"
#include "engine/nesting.h"
#include "engine/prompt.h"
#include "engine/schema.h"
#include "engine/work_limit.h"

extern "C" {
#include "base/error.h"
#include "engine/model.h"
#include "os/thread.h"
}

struct forebay_chat {
    const llama_vocab *vocab;
    uint32_t n_ctx;
    common_chat_templates_ptr templates;
    ControlTokens control;
    std::string source;
    bool can_think = false;

    explicit forebay_chat(const struct forebay_model *m)
        : vocab(m->vocab), n_ctx(forebay_model_ctx(m)), control(m->tokenizer)
    {
    }
};

static const size_t text_max = INT32_MAX / 4;

static enum forebay_status too_long(struct forebay_error *err, size_t length)
{
    return fb_fail(err, FOREBAY_E_USAGE, "Shorten it.", "a text of %zu bytes is too long", length);
}

/* --- Limits -------------------------------------------------------------------------------- */

/* Of the stack, a template's recursion may take an eighth; the rest is for what does not allocate:
 * the parser (nesting.h), and values in values and expressions in expressions, which are freed by
 * recursion. Only what is touched is resident. */
static const size_t stack_bytes = 128u << 20;

/* An honest template takes 0.16 ms and 5 KiB for a message, and a few ms for all (measured with the
 * pinned library). */
static fb_work work_for(size_t text_bytes, size_t n_messages)
{
    return {1000000000 + (int64_t)n_messages * 1000000 + (int64_t)text_bytes * 1000,
        (64 << 20) + (int64_t)text_bytes * 64, stack_bytes / 8};
}

struct large_call {
    const std::function<enum forebay_status()> &call;
    enum forebay_status status;
};

static void *call_there(void *arg)
{
    auto large = (large_call *)arg;
    large->status = large->call();
    return nullptr;
}

/* Runs `call` on a large stack. */
static enum forebay_status on_large_stack(
    struct forebay_error *err, const std::function<enum forebay_status()> &call)
{
    large_call large = {call, FOREBAY_OK};
    int rc = fb_thread_call(nullptr, stack_bytes, call_there, &large);
    return rc == 0 ? large.status
                   : fb_fail_errno(err, FOREBAY_E_NOMEM, rc, "Allow more memory.",
                         "no stack of %zu MiB for the chat template", stack_bytes >> 20);
}

/* The caller of a function that may take long, who may not want its result any more. */
struct waiting_caller {
    forebay_progress progress;
    void *user;

    static bool waits(void *self)
    {
        auto caller = (waiting_caller *)self;
        return !caller->progress || caller->progress("rendering the messages", 0, 1, caller->user);
    }

    void check()
    {
        if (!waits(this)) {
            throw fb_refusal(FOREBAY_E_CANCELLED, "rendering the messages was cancelled");
        }
    }
};

/* A schema that needs more makes a grammar that is too large (nesting.h). */
static fb_work schema_work(size_t text_bytes)
{
    return {500000000, (32 << 20) + (int64_t)text_bytes * 16, stack_bytes / 8};
}

/* What a limit ended. */
struct limited_work {
    const char *fails, *hint;
};

static const limited_work template_work = {
    "the chat template does not work: ", "Use another template."};
static const limited_work constrained_work = {
    "the chat template does not work with these tools or this schema: ", "Use simpler ones."};
static const limited_work conversion_work = {
    "the schema cannot be made into a grammar: ", "Use a simpler schema."};

/* Runs llama.cpp's part within limits. Where these end it, it may throw anything. */
template <typename Call>
static void within(const fb_work &most, Call call, const limited_work &work = template_work)
{
    const char *broken = nullptr;
    bool cancelled = false;
    {
        fb_work_limit limit(most);
        try {
            call();
        } catch (...) {
            if (!limit.broken()) {
                throw;
            }
        }
        broken = limit.broken();
        cancelled = limit.cancelled();
    }
    if (cancelled) {
        throw fb_refusal(FOREBAY_E_CANCELLED, "rendering the messages was cancelled");
    }
    if (broken) {
        throw fb_refusal(FOREBAY_E_USAGE, std::string(work.fails) + broken, work.hint);
    }
}

/* --- Templates ----------------------------------------------------------------------------- */

/* llama.cpp does not say what is wrong with a template; its parser does. */
static void explain_template(
    const struct forebay_model *m, const char *text, struct forebay_error *err)
{
    const char *own = llama_model_chat_template(m->llama, NULL);
    std::string why, source = text ? text : own ? own : "";
    bool refused = false; /* by our limits, which say so themselves */
    fb_guarded(
        [&] {
            try {
                fb_check_template(source);
                within(work_for(1 << 20, 0), [&] { common_chat_template(source, "", ""); });
            } catch (const fb_refusal &) {
                refused = true;
            }
            return true;
        },
        why);
    if (!refused && !why.empty()) {
        fb_fail(err, FOREBAY_E_USAGE, "Give a template that llama.cpp can parse.",
            "the chat template is invalid: %s", why.substr(0, why.find('\n')).c_str());
    }
}

static void read_template(
    const struct forebay_model *m, const std::string &text, struct forebay_chat *chat)
{
    fb_check_template(text);
    for (const char *name : {(const char *)nullptr, "tool_use"}) {
        const char *own = llama_model_chat_template(m->llama, name);
        fb_check_template(text.empty() && own ? own : "");
    }
    within(work_for(1 << 20, 0), [&] {
        chat->templates = common_chat_templates_init(m->llama, text);
        chat->source = common_chat_templates_source(chat->templates.get());
    });
    try {
        within(work_for(1 << 20, 0), [&] {
            chat->can_think = common_chat_templates_support_enable_thinking(chat->templates.get());
        });
    } catch (const fb_refusal &) {
        throw;
    } catch (const std::exception &) { /* a template that needs more than an example has */
        chat->can_think = false;
    }
}

enum forebay_status forebay_chat_new(const struct forebay_model *m, const char *text,
    struct forebay_chat **out, struct forebay_error *err)
{
    if (!forebay_model_has_text(m)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Use a model with a tokenizer.",
            "the model has no tokenizer, so it cannot chat");
    }
    auto chat = new forebay_chat(m);
    enum forebay_status status = on_large_stack(err, [&] {
        enum forebay_status read = fb_guarded_status(FOREBAY_E_USAGE, err,
            "Give a template that llama.cpp can parse.", "use the chat template",
            [&] { return read_template(m, text ? text : "", chat), true; });
        if (read != FOREBAY_OK) {
            explain_template(m, text, err);
        }
        return read;
    });
    if (status != FOREBAY_OK) {
        forebay_chat_free(chat);
        return status;
    }
    *out = chat;
    return FOREBAY_OK;
}

void forebay_chat_free(struct forebay_chat *chat)
{
    if (chat) {
        on_large_stack(nullptr, [&] {
            delete chat;
            return FOREBAY_OK;
        });
    }
}

const char *forebay_chat_template(const struct forebay_chat *chat)
{
    return chat->source.c_str();
}

bool forebay_chat_is_default(const struct forebay_chat *chat)
{
    return !common_chat_templates_was_explicit(chat->templates.get());
}

bool forebay_chat_can_think(const struct forebay_chat *chat)
{
    return chat->can_think;
}

bool forebay_chat_has_tools(const struct forebay_chat *chat)
{
    auto caps = common_chat_templates_get_caps(chat->templates.get());
    return caps["supports_tools"] || caps["supports_tool_calls"];
}

/* --- Requests ------------------------------------------------------------------------------ */

/* Marks control tokens in all strings of a message (`here`), and in descriptions of tools. Strings
 * that are compared with a list (roles, names) or copied into a grammar are left alone. */
static void protect_strings(const ControlTokens &control, const ControlTokens::Marks &marks,
    common_json &value, bool here, waiting_caller &caller, int level = 0)
{
    caller.check();
    if (level > fb_levels_max) {
        throw std::invalid_argument("the messages nest too deeply");
    }
    if (value.is_string()) {
        if (here) {
            value = control.protect(value.get<std::string>(), marks);
        }
    } else if (value.is_object()) {
        for (const auto &[key, item] : value.items()) {
            bool name = key == "role" || key == "type" || key == "name" || key == "id" ||
                        key == "tool_call_id";
            protect_strings(
                control, marks, item, (here && !name) || key == "description", caller, level + 1);
        }
    } else if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            protect_strings(control, marks, value.at(i), here, caller, level + 1);
        }
    }
}

/* Reads tool_choice. A choice of one function leaves that tool alone and requires a call. */
static void choose_tool(
    const common_json &choice, common_json &tools, common_chat_templates_inputs &in)
{
    if (choice.is_string()) {
        in.tool_choice = common_chat_tool_choice_parse_oaicompat(choice.get<std::string>());
    } else if (choice.is_object()) {
        std::string name = choice.at("function").at("name").get<std::string>();
        common_json chosen = common_json::array();
        for (size_t i = 0; i < tools.size(); i++) {
            if (tools.at(i).at("function").at("name").get<std::string>() == name) {
                chosen.push_back(tools.at(i));
            }
        }
        if (chosen.empty()) {
            throw std::invalid_argument("tool_choice names '" + name + "', which is not in tools");
        }
        tools = chosen;
        in.tool_choice = COMMON_CHAT_TOOL_CHOICE_REQUIRED;
    } else if (!choice.is_null()) {
        throw std::invalid_argument("tool_choice must be a string or an object");
    }
    if (tools.empty() && in.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED) {
        throw std::invalid_argument("tool_choice requires a tool, and there are none");
    }
}

/* The schema the reply must follow, as JSON text; "" if none. */
static std::string wanted_schema(const common_json &request)
{
    common_json schema;
    if (request.contains("json_schema")) {
        schema = request.at("json_schema");
    }
    if (request.contains("response_format") && !request.at("response_format").is_null()) {
        const common_json &format = request.at("response_format");
        std::string type = format.at("type").get<std::string>();
        if (type == "json_object") {
            schema = format.contains("schema") ? format.at("schema") : common_json::object();
        } else if (type == "json_schema") {
            schema = format.at("json_schema").at("schema");
        } else if (type != "text") {
            throw std::invalid_argument("response_format: unknown type '" + type + "'");
        }
    }
    if (schema.is_object() && schema.empty()) {
        schema["type"] = "object";
    }
    if (!schema.is_null() && !schema.is_object() && !schema.is_boolean()) {
        throw std::invalid_argument("a schema must be an object");
    }
    fb_check_schema(schema);
    fb_complete_schema(schema, false);
    return schema.is_null() ? "" : schema.dump();
}

static bool flag(const common_json &request, const char *name, bool otherwise)
{
    if (!request.contains(name) || request.at(name).is_null()) {
        return otherwise;
    }
    if (!request.at(name).is_boolean()) {
        throw std::invalid_argument(std::string(name) + " must be true or false");
    }
    return request.at(name).get<bool>();
}

static void read_thinking(const common_json &request, common_chat_templates_inputs &in)
{
    if (request.contains("chat_template_kwargs") && !request.at("chat_template_kwargs").is_null()) {
        const common_json &kwargs = request.at("chat_template_kwargs");
        if (!kwargs.is_object()) {
            throw std::invalid_argument("chat_template_kwargs must be an object");
        }
        for (const auto &[key, value] : kwargs.items()) {
            in.chat_template_kwargs[key] = value.dump();
        }
        in.enable_thinking = flag(kwargs, "enable_thinking", true);
    }
    in.enable_thinking = flag(request, "enable_thinking", in.enable_thinking);
    if (request.contains("reasoning_effort") && !request.at("reasoning_effort").is_null()) {
        std::string effort = request.at("reasoning_effort").get<std::string>();
        if (effort == "none") {
            in.enable_thinking = false;
        } else {
            in.chat_template_kwargs["reasoning_effort"] = common_json::make(effort).dump();
        }
    }
}

/* Templates print any role, but only these have a meaning. */
static void check_roles(const common_json &messages)
{
    static const std::set<std::string> roles = {
        "system", "developer", "user", "assistant", "tool", "function"};
    for (size_t i = 0; i < messages.size(); i++) {
        std::string role = messages.at(i).at("role").get<std::string>();
        if (!roles.count(role)) {
            throw std::invalid_argument("unknown role '" + role + "'");
        }
    }
}

/* The arguments of earlier calls are parsed for the template, by recursion. */
static void check_calls(const common_chat_msg &message)
{
    for (const auto &call : message.tool_calls) {
        fb_check_json(call.arguments);
    }
}

/* A last message of the assistant is continued, as by llama.cpp's server, unless the request says
 * that a new one shall begin. */
static void read_continuation(const common_json &request, common_chat_templates_inputs &in)
{
    const common_chat_msg &last = in.messages.back();
    bool can = last.role == "assistant" && last.tool_calls.empty();
    bool begins = flag(request, "add_generation_prompt", !can);
    bool continues = flag(request, "continue_final_message", can && !begins);
    if (continues && !can) {
        throw std::invalid_argument(
            last.role == "assistant"
                ? "continue_final_message: the last message calls a tool; send the tool's result"
                : "continue_final_message: the last message must be the assistant's");
    }
    if (continues && begins && request.contains("add_generation_prompt")) {
        throw std::invalid_argument(
            "continue_final_message and add_generation_prompt exclude each other");
    }
    in.add_generation_prompt = !continues && flag(request, "add_generation_prompt", true);
    in.continue_final_message =
        continues ? COMMON_CHAT_CONTINUATION_AUTO : COMMON_CHAT_CONTINUATION_NONE;
}

static common_chat_templates_inputs read_request(
    const struct forebay_chat *chat, const common_json &request)
{
    if (!request.contains("messages") || !request.at("messages").is_array() ||
        request.at("messages").empty()) {
        throw std::invalid_argument("messages must be a list of at least one message");
    }
    common_chat_templates_inputs in;
    common_json tools = request.contains("tools") && !request.at("tools").is_null()
                            ? request.at("tools")
                            : common_json::array();
    if (!tools.is_array()) {
        throw std::invalid_argument("tools must be a list");
    }
    choose_tool(request.contains("tool_choice") ? request.at("tool_choice") : common_json(nullptr),
        tools, in);
    auto caps = common_chat_templates_get_caps(chat->templates.get());
    if (in.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && !forebay_chat_has_tools(chat)) {
        throw std::invalid_argument("tool_choice: the model's chat template knows no tools");
    }
    fb_check_schema(tools);
    for (size_t i = 0; i < tools.size(); i++) {
        common_json &function = tools.at(i)["function"];
        if (function.contains("parameters")) {
            fb_complete_schema(function["parameters"], true);
        }
    }
    check_roles(request.at("messages"));
    in.messages = common_chat_msgs_parse_oaicompat(request.at("messages"));
    std::for_each(in.messages.begin(), in.messages.end(), check_calls);
    in.tools = common_chat_tools_parse_oaicompat(tools);
    in.json_schema = wanted_schema(request);
    in.grammar = request.contains("grammar") && !request.at("grammar").is_null()
                     ? request.at("grammar").get<std::string>()
                     : "";
    fb_check_grammar(in.grammar);
    in.parallel_tool_calls =
        flag(request, "parallel_tool_calls", caps["supports_parallel_tool_calls"]);
    read_continuation(request, in);
    in.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK; /* reasoning apart from the content */
    read_thinking(request, in);
    return in;
}

/* --- Rendering ----------------------------------------------------------------------------- */

static std::vector<llama_token> tokens_of(const llama_vocab *vocab, const std::string &text)
{
    return common_tokenize(vocab, text, false, true);
}

/* A trigger word that is a single token triggers as that token. */
static common_grammar_trigger resolve(
    const llama_vocab *vocab, common_grammar_trigger trigger, std::set<llama_token> &shown)
{
    if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
        auto ids = tokens_of(vocab, trigger.value);
        if (ids.size() == 1) {
            trigger.type = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
            trigger.token = ids[0];
            shown.insert(ids[0]);
        }
    }
    return trigger;
}

static void set_grammar(const struct forebay_chat *chat, const common_chat_params &params,
    const std::string &wanted, struct forebay_prompt *prompt)
{
    for (const std::string &name : params.preserved_tokens) {
        auto ids = tokens_of(chat->vocab, name);
        if (ids.size() == 1) {
            prompt->shown.insert(ids[0]);
        }
    }
    if (!params.grammar.empty()) {
        prompt->grammar = {COMMON_GRAMMAR_TYPE_TOOL_CALLS, params.grammar};
        prompt->grammar_lazy = params.grammar_lazy;
        for (const auto &trigger : params.grammar_triggers) {
            prompt->triggers.push_back(resolve(chat->vocab, trigger, prompt->shown));
        }
    } else if (!wanted.empty()) {
        prompt->grammar = {COMMON_GRAMMAR_TYPE_USER, wanted};
    }
    if (!params.thinking_start_tag.empty()) {
        prompt->thinking_start = tokens_of(chat->vocab, params.thinking_start_tag);
        for (const std::string &tag : params.thinking_end_tags) {
            prompt->thinking_ends.push_back(tokens_of(chat->vocab, tag));
        }
    }
}

static void set_parser(const common_chat_params &params, const common_chat_templates_inputs &in,
    struct forebay_prompt *prompt)
{
    prompt->parser = common_chat_parser_params(params);
    prompt->parser.generation_prompt = prompt->generation_prompt;
    prompt->parser.reasoning_format = in.reasoning_format;
    prompt->parser.parse_tool_calls =
        !in.tools.empty() && in.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE;
    prompt->parser.is_continuation = in.continue_final_message != COMMON_CHAT_CONTINUATION_NONE;
    if (!params.parser.empty()) {
        prompt->parser.parser.load(params.parser);
        prompt->parsed = true;
    }
}

static void check_count(const struct forebay_chat *chat, const common_json &messages)
{
    size_t n = messages.is_array() ? messages.size() : 0;
    if (n >= chat->n_ctx) {
        throw fb_refusal(FOREBAY_E_CONTEXT,
            std::to_string(n) +
                " messages have at least as many tokens, which do not fit into the "
                "context of " +
                std::to_string(chat->n_ctx),
            "Send fewer messages, or use a larger --ctx.");
    }
}

static void render(const struct forebay_chat *chat, const std::string &text, waiting_caller &caller,
    struct forebay_prompt *prompt)
{
    auto marks = ControlTokens::choose_marks(text);
    common_json request = common_json::parse(text);
    if (!request.is_object()) {
        throw std::invalid_argument("the request must be an object");
    }
    if (request.contains("messages")) {
        check_count(chat, request["messages"]);
        protect_strings(chat->control, marks, request["messages"], true, caller);
    }
    if (request.contains("tools")) {
        protect_strings(chat->control, marks, request["tools"], false, caller);
    }
    for (const char *schemas : {"tools", "json_schema", "response_format"}) {
        if (request.contains(schemas)) {
            fb_clamp_schema(request[schemas], strcmp(schemas, "tools") == 0);
        }
    }
    auto in = read_request(chat, request);
    common_chat_params params;
    fb_work most = work_for(text.size(), in.messages.size());
    most.wanted = waiting_caller::waits;
    most.user = &caller;
    within(
        most, [&] { params = common_chat_templates_apply(chat->templates.get(), in); },
        in.tools.empty() && in.json_schema.empty() ? template_work : constrained_work);
    prompt->text = params.prompt;
    prompt->tokens = chat->control.tokenize(prompt->text, marks, [&] { caller.check(); });
    prompt->generation_prompt = ControlTokens::without_marks(params.generation_prompt, marks);
    prompt->stops = params.additional_stops;
    set_grammar(chat, params, in.grammar, prompt);
    set_parser(params, in, prompt);
}

enum forebay_status forebay_chat_render(const struct forebay_chat *chat, const char *request,
    size_t length, forebay_progress progress, void *progress_user, struct forebay_prompt **out,
    struct forebay_error *err)
{
    if (length > text_max) {
        return too_long(err, length);
    }
    waiting_caller caller = {progress, progress_user};
    auto prompt = new forebay_prompt;
    std::string mistake; /* in the request, rather than llama.cpp's */
    enum forebay_status status = on_large_stack(err, [&] {
        return fb_guarded_status(FOREBAY_E_USAGE, err, "", "render the messages", [&] {
            try {
                render(chat, std::string(request, length), caller, prompt);
            } catch (const std::invalid_argument &e) {
                mistake = e.what();
            }
            return mistake.empty();
        });
    });
    if (!mistake.empty()) {
        status = fb_fail(err, FOREBAY_E_USAGE, "", "%s", mistake.c_str());
    }
    if (status == FOREBAY_OK && prompt->tokens.empty()) {
        status = fb_fail(err, FOREBAY_E_USAGE, "Give it some text.", "the prompt is empty");
    }
    if (status != FOREBAY_OK) {
        delete prompt;
        return status;
    }
    *out = prompt;
    return FOREBAY_OK;
}

enum forebay_status forebay_schema_grammar(
    const char *schema, size_t length, char **grammar, struct forebay_error *err)
{
    if (length > text_max) {
        return too_long(err, length);
    }
    std::string text;
    auto convert = [&] {
        common_json parsed = common_json::parse(std::string(schema, length));
        try {
            fb_clamp_schema(parsed, false);
            fb_check_schema(parsed);
        } catch (const std::invalid_argument &e) {
            throw fb_refusal(FOREBAY_E_USAGE, e.what(), conversion_work.hint);
        }
        fb_complete_schema(parsed, false);
        within(
            schema_work(length), [&] { text = json_schema_to_grammar(parsed); }, conversion_work);
        return true;
    };
    enum forebay_status status = on_large_stack(err, [&] {
        return fb_guarded_status(FOREBAY_E_USAGE, err, "", "make a grammar of the schema", convert);
    });
    if (status == FOREBAY_OK) {
        *grammar = fb_xstrdup(text.c_str());
    }
    return status;
}
