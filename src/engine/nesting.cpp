/* nesting.cpp - see nesting.h. A level takes well under 1 KiB of stack in llama.cpp, so these
 * bounds need less than the smallest thread stack (512 KiB, on macOS). */
#include "engine/nesting.h"

#include <stdexcept>

#include "engine/grammar_paths.h"

static const size_t rules_max = 1 << 14; /* of a grammar; each may refer to the next */
static const size_t refs_max = 256;      /* of a schema; larger steps of the same recursion */
static const size_t grammar_bytes_max = 1 << 20;
static const size_t members_max = 256;        /* of an object; time grows with their square */
static const size_t entries_max = 4096;       /* of an array: enumerated values, alternatives */
static const size_t values_max = 1 << 16;     /* in a schema */
static const size_t name_bytes_max = 1 << 10; /* of a member; grammars repeat it at each level */
static const size_t types_max = 16;           /* in a list; there are seven */
/* Pairs of members of an object, over a whole schema. llama.cpp writes rules for each optional
 * property with each that may follow: 2 us for each pair. */
static const size_t pairs_max = 1 << 18;
static const size_t template_bytes_max = 1 << 20;
/* What recursion of the parser of templates begins with, where it does not allocate: brackets,
 * signs, not, else. Each takes at most 1.8 KiB of stack. Templates of 20 KiB have some 2,000. */
static const size_t openers_max = 1 << 15;

static size_t count(const std::string &text, const char *word)
{
    size_t n = 0;
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        n++;
    }
    return n;
}

void fb_check_grammar(const std::string &grammar)
{
    if (grammar.size() > grammar_bytes_max || count(grammar, "::=") > rules_max) {
        throw std::invalid_argument("the grammar is too large");
    }
    fb_check_paths(grammar);
}

void fb_check_template(const std::string &source)
{
    if (source.size() > template_bytes_max) {
        throw std::invalid_argument("the chat template is larger than " +
                                    std::to_string(template_bytes_max >> 10) + " KiB");
    }
    size_t n = count(source, "not") + count(source, "else") + count(source, "elif");
    for (char c : source) {
        n += c == '(' || c == '[' || c == '{' || c == '-' || c == '+';
    }
    if (n > openers_max) {
        throw std::invalid_argument("the chat template has too many brackets and operators");
    }
}

/* Counted over a whole schema. */
struct schema_tally {
    size_t refs, values, pairs;
};

static void check(const common_json &value, int level, schema_tally &sum)
{
    if (level > fb_levels_max) {
        throw std::invalid_argument("the schema nests too deeply");
    }
    if (++sum.values > values_max ||
        value.size() > (value.is_object() ? members_max : entries_max)) {
        throw std::invalid_argument("the schema is too large");
    }
    if (value.is_object()) {
        sum.pairs += value.size() * value.size() / 2;
        if (sum.pairs > pairs_max) {
            throw std::invalid_argument("the schema has too many properties");
        }
        for (const auto &[key, item] : value.items()) {
            if (key.size() > name_bytes_max) {
                throw std::invalid_argument("the schema has a name of " +
                                            std::to_string(key.size()) + " bytes; at most " +
                                            std::to_string(name_bytes_max) + " are supported");
            }
            if (key == "type" && item.is_array() && item.size() > types_max) {
                throw std::invalid_argument("the schema has a list of too many types");
            }
            if (key == "$ref" && ++sum.refs > refs_max) {
                throw std::invalid_argument("the schema has too many references");
            }
            check(item, level + 1, sum);
        }
    } else if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            check(value.at(i), level + 1, sum);
        }
    }
}

void fb_check_schema(const common_json &schema)
{
    schema_tally sum = {};
    check(schema, 0, sum);
}

void fb_check_json(const std::string &text)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < text.size(); i++) {
        char c = text[i];
        if (c == '"') {
            quoted = !quoted;
        } else if (quoted) {
            i += c == '\\';
        } else if (c == '[' || c == '{') {
            if (++depth > fb_levels_max) {
                throw std::invalid_argument("the arguments of a call nest too deeply");
            }
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
}
