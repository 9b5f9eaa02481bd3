/* schema.cpp - see schema.h. */
#include "engine/schema.h"

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <set>
#include <stdexcept>

#include "engine/nesting.h"

/* llama.cpp writes a repetition as that many rules; it refuses more. */
static const double repetitions_max = 2000;

/* A repetition beyond what grammars can hold. A tool's schema is advice to the model, so there it
 * is reduced; a reply would break its schema. */
static void limit_repetition(const std::string &key, common_json &number, bool of_tool)
{
    double wanted = number.get<double>();
    if (wanted <= repetitions_max) {
        return;
    }
    bool upper = key[1] == 'a'; /* maxLength, maxItems */
    if (!of_tool && (!upper || wanted < 0x1p31)) {
        throw std::invalid_argument("the schema's " + key + " of " + number.dump() +
                                    " is too large: at most 2000 are supported");
    }
    number = upper ? INT32_MAX /* means none */ : (int)repetitions_max;
}

/* The same for the repetitions in a tool's pattern: without ^ and $, llama.cpp allows any text. */
static void limit_pattern(common_json &pattern)
{
    std::string text = pattern.get<std::string>();
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] == '{' || (text[i] == ',' && i > 0 && isdigit((unsigned char)text[i - 1]))) {
            if (strtod(text.c_str() + i + 1, nullptr) > repetitions_max) {
                pattern = ".*";
                return;
            }
        }
    }
}

static void clamp(common_json &schema, bool of_tool, int level)
{
    static const std::set<std::string> bounds = {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    static const std::set<std::string> repetitions = {
        "minLength", "maxLength", "minItems", "maxItems"};
    if (level > fb_levels_max) {
        return; /* fb_check_schema refuses it */
    }
    if (schema.is_object()) {
        for (const auto &[key, item] : schema.items()) {
            if (of_tool && key == "pattern" && item.is_string()) {
                limit_pattern(item);
            } else if (!item.is_number()) {
                clamp(item, of_tool, level + 1);
            } else if (repetitions.count(key)) {
                limit_repetition(key, item, of_tool);
            } else if (bounds.count(key) && std::fabs(item.get<double>()) >= 0x1p63) {
                item = item.get<double>() < 0 ? INT64_MIN : INT64_MAX;
            }
        }
    } else if (schema.is_array()) {
        for (size_t i = 0; i < schema.size(); i++) {
            clamp(schema.at(i), of_tool, level + 1);
        }
    }
}

void fb_clamp_schema(common_json &schema, bool of_tool)
{
    clamp(schema, of_tool, 0);
}

/* Languages that do not tell an empty list from an empty object write `[]`. */
static bool is_nothing(const common_json &value)
{
    return value.is_null() || (value.is_array() && value.empty());
}

/* `schema` is in the place of a schema, or of a list of them. */
static void complete(common_json &schema, bool of_tool, int level)
{
    static const std::set<std::string> maps = {
        "properties", "patternProperties", "$defs", "definitions", "dependentSchemas"};
    static const std::set<std::string> schemas = {
        "items", "prefixItems", "anyOf", "oneOf", "allOf", "contains", "not"};
    if (level > fb_levels_max) {
        return; /* fb_check_schema refuses it */
    }
    if (schema.is_boolean() && (of_tool || schema.get<bool>())) {
        schema = common_json::object();
    } else if (schema.is_array()) {
        for (size_t i = 0; i < schema.size(); i++) {
            complete(schema.at(i), of_tool, level + 1);
        }
    } else if (schema.is_object()) {
        for (const auto &[key, item] : schema.items()) {
            if (of_tool && maps.count(key) && is_nothing(item)) {
                item = common_json::object();
            } else if (maps.count(key) && item.is_object()) {
                for (const auto &[name, member] : item.items()) {
                    complete(member, of_tool, level + 2);
                }
            } else if (schemas.count(key) || (key == "additionalProperties" && item.is_object())) {
                complete(item, of_tool, level + 1);
            }
        }
    }
}

void fb_complete_schema(common_json &schema, bool of_tool)
{
    if (schema.is_object()) {
        complete(schema, of_tool, 0);
    }
}
