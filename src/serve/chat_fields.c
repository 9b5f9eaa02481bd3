/*
 * chat_fields.c - see chat_fields.h. Members of OpenAI's requests that are not mentioned here reach
 * the chat template as they are.
 */
#include "serve/chat_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Where a mistake is: "messages[3]". */
struct place {
    struct fb_fields *fields;
    const char *list;
    size_t index;
};

#define FAIL(place, format, ...)                                                                   \
    fb_fields_fail((place)->fields, "%s[%zu]" format, (place)->list, (place)->index, ##__VA_ARGS__)

static void remove_nulls(json_t *object)
{
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, key, value)
    {
        if (json_is_null(value)) {
            json_object_del(object, key);
        }
    }
}

static const char *type_of(const json_t *object, const char *otherwise)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : otherwise;
}

/* --- Content ------------------------------------------------------------------------------- */

/* A part in place of `part`; NULL with a failure. The result of a tool may show what the model
 * cannot read: it is told so, as the conversation could not go on otherwise. New reference. */
static json_t *tidy_part(const struct place *at, json_t *part, bool of_tool)
{
    const char *type = type_of(part, "text");
    bool refusal = strcmp(type, "refusal") == 0, readable = refusal || strcmp(type, "text") == 0;
    json_t *text = json_object_get(part, refusal ? "refusal" : "text");
    if (readable && json_is_string(text)) {
        return json_pack("{s:s,s:O}", "type", "text", "text", text);
    }
    if (!json_is_object(part)) {
        FAIL(at, ": the parts of content must be objects");
    } else if (readable) {
        FAIL(at, ": a part of type %s needs a text", type);
    } else if (!of_tool) {
        FAIL(at, ": parts of type %.40s are not supported: the model reads text only", type);
    } else {
        return json_pack("{s:s,s:o}", "type", "text", "text",
            json_sprintf("[%.40s: not shown, as the model reads text only]", type));
    }
    return NULL;
}

static void tidy_content(const struct place *at, json_t *message, const char *role)
{
    json_t *content = json_object_get(message, "content"), *part, *parts;
    bool of_tool = strcmp(role, "tool") == 0 || strcmp(role, "function") == 0;
    size_t i;
    if (!content && (of_tool || strcmp(role, "assistant") == 0)) {
        if (!json_object_get(message, "tool_calls")) {
            json_object_set_new(message, "content", json_string(""));
        }
    } else if (!content) {
        FAIL(at, " has no content");
    } else if (!json_is_string(content) && !json_is_array(content)) {
        FAIL(at, ": content must be a string or a list of parts");
    } else if (json_is_array(content)) {
        parts = json_array();
        json_array_foreach(content, i, part)
        {
            json_t *tidy = tidy_part(at, part, of_tool);
            if (tidy) {
                json_array_append_new(parts, tidy);
            }
        }
        json_object_set_new(message, "content", parts);
    }
}

/* --- Calls --------------------------------------------------------------------------------- */

static void tidy_call(const struct place *at, json_t *call)
{
    json_t *function = json_object_get(call, "function");
    json_t *arguments = json_object_get(function, "arguments");
    if (strcmp(type_of(call, "function"), "function") != 0 ||
        !json_is_string(json_object_get(function, "name"))) {
        FAIL(at, ": a tool call must be of type function, with a name");
        return;
    }
    remove_nulls(call);
    json_object_set_new(call, "type", json_string("function"));
    if (!json_is_string(arguments) || json_string_length(arguments) == 0) {
        char *text = arguments && !json_is_null(arguments) && !json_is_string(arguments)
                         ? json_dumps(arguments, JSON_COMPACT | JSON_ENCODE_ANY)
                         : NULL;
        json_object_set_new(function, "arguments", json_string(text ? text : "{}"));
        free(text);
    }
}

static void tidy_calls(const struct place *at, json_t *message)
{
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t i;
    if (calls && !json_is_array(calls)) {
        FAIL(at, ": tool_calls must be a list");
    } else if (calls && json_array_size(calls) == 0) {
        json_object_del(message, "tool_calls");
    }
    json_array_foreach(calls, i, call)
    {
        tidy_call(at, call);
    }
}

static void tidy_message(const struct place *at, json_t *message)
{
    json_t *role = json_object_get(message, "role");
    if (!json_is_object(message)) {
        FAIL(at, " must be an object");
    } else if (!role || json_is_null(role)) {
        FAIL(at, " has no role; it must be system, developer, user, assistant or tool");
    } else if (!json_is_string(role)) {
        FAIL(at, ": role must be a string");
    } else {
        remove_nulls(message);
        if (json_object_get(message, "function_call")) {
            FAIL(at, ": function_call is not supported; send tool_calls");
        }
        tidy_calls(at, message);
        tidy_content(at, message, json_string_value(role));
    }
}

/* --- Tools --------------------------------------------------------------------------------- */

static void tidy_tool(const struct place *at, json_t *tools, json_t *tool)
{
    const char *type = type_of(tool, "function");
    json_t *function = json_object_get(tool, "function");
    if (strcmp(type, "function") != 0) {
        FAIL(at, ": tools of type %.40s are not supported, only functions", type);
        return;
    }
    if (!function && json_object_get(tool, "name")) { /* as OpenAI's newer API spells it */
        function = json_copy(tool);
        json_object_del(function, "type");
        json_array_set_new(
            tools, at->index, json_pack("{s:s,s:o}", "type", "function", "function", function));
        tool = json_array_get(tools, at->index);
    }
    remove_nulls(function);
    json_t *description = json_object_get(function, "description");
    json_t *parameters = json_object_get(function, "parameters");
    if (!json_is_string(json_object_get(function, "name"))) {
        FAIL(at, " needs a function with a name");
    } else if (description && !json_is_string(description)) {
        FAIL(at, ": description must be a string");
    } else if (parameters && !json_is_object(parameters)) {
        FAIL(at, ": parameters must be a schema, an object");
    } else {
        json_object_set_new(tool, "type", json_string("function"));
    }
}

static void check_choice(struct fb_fields *f)
{
    static const char *const words[] = {"auto", "none", "required"};
    json_t *choice = fb_field(f, "tool_choice");
    bool good =
        !choice || json_is_string(json_object_get(json_object_get(choice, "function"), "name"));
    for (size_t i = 0; json_is_string(choice) && i < sizeof words / sizeof *words; i++) {
        good = good || strcmp(json_string_value(choice), words[i]) == 0;
    }
    if (!good) {
        fb_fields_fail(f, "tool_choice must be \"auto\", \"none\", \"required\", or "
                          "{\"type\": \"function\", \"function\": {\"name\": NAME}}");
    }
}

/* --- All ----------------------------------------------------------------------------------- */

void fb_chat_tidy(struct fb_fields *f)
{
    json_t *messages = fb_field_array(f, "messages"), *tools = fb_field_array(f, "tools"), *item;
    size_t i;
    if (fb_field(f, "functions") || fb_field(f, "function_call")) {
        fb_fields_fail(f, "functions and function_call are not supported; send tools and "
                          "tool_choice, which have replaced them");
    }
    if (json_array_size(messages) == 0) {
        fb_fields_fail(f, "messages is missing; it must be a list of at least one message");
    }
    json_array_foreach(messages, i, item)
    {
        tidy_message(&(struct place){f, "messages", i}, item);
    }
    json_array_foreach(tools, i, item)
    {
        tidy_tool(&(struct place){f, "tools", i}, tools, item);
    }
    check_choice(f);
}
