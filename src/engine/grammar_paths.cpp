/*
 * grammar_paths.cpp - bounds the number of ways in which a grammar may begin. llama.cpp walks all
 * of them, from every rule, before it samples, and again for each character: the time grows with
 * their number or its square.
 *
 * The grammar is read into rules. A rule is a list of alternatives, each a sequence of items; a
 * group in brackets is a rule without a name. Anything unreadable counts as a character, because
 * llama.cpp will refuse it. Then the paths of each rule are counted from those of the rules it
 * begins with:
 *
 *      root ::= "a"? item | [0-9]      paths: 1 ("a") + 2 (those of item) + 1 = 4
 *      item ::= "b" | "c"              paths: 2
 */
#include "engine/grammar_paths.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <vector>

static const uint64_t paths_max = 4096;
static const size_t optional_max = 64; /* in a row: the time grows with the cube, or faster */
static const int steps_max = 1024; /* from a rule to one it begins with: recursion in llama.cpp */

/* An item of an alternative, with its repetition. */
struct grammar_item {
    int rule; /* index of a rule; -1: a character or token */
    bool optional;
    uint64_t times; /* at most */
};

struct grammar_rule {
    std::vector<std::vector<grammar_item>> alternatives{1};
    enum { UNKNOWN, ACTIVE, KNOWN } state = UNKNOWN; /* of what follows; ACTIVE: being counted */
    uint64_t paths = 0;
    bool nullable = false; /* can be empty */
};

struct grammar_reader {
    const std::string &g;
    size_t at = 0;
    std::vector<grammar_rule> rules;
    std::map<std::string, int> names;
};

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

static void skip_space(grammar_reader &r)
{
    while (r.at < r.g.size()) {
        if (r.g[r.at] == '#') {
            r.at = std::min(r.g.find_first_of("\r\n", r.at), r.g.size());
        } else if (r.g[r.at] == ' ' || r.g[r.at] == '\t' || r.g[r.at] == '\r' ||
                   r.g[r.at] == '\n') {
            r.at++;
        } else {
            return;
        }
    }
}

/* Bytes of a character in quotes or brackets. llama.cpp decides by the first one alone. */
static size_t character(char first)
{
    unsigned char c = (unsigned char)first;
    return c == '\\' ? 2 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
}

/* Skips a string, character class or token name, from its opening to its closing mark. Token names
 * are plain bytes. */
static void skip_to(grammar_reader &r, char close)
{
    for (r.at++; r.at < r.g.size() && r.g[r.at] != close;) {
        r.at += close == '>' ? 1 : character(r.g[r.at]);
    }
    r.at++;
}

static uint64_t read_number(grammar_reader &r)
{
    uint64_t n = 0;
    for (; r.at < r.g.size() && r.g[r.at] >= '0' && r.g[r.at] <= '9'; r.at++) {
        n = n < paths_max ? 10 * n + (uint64_t)(r.g[r.at] - '0') : n;
    }
    return n;
}

/* *, +, ?, {m}, {m,}, {m,n} */
static void read_repetition(grammar_reader &r, grammar_item &item)
{
    char c = r.g[r.at++];
    item.optional |= c == '*' || c == '?';
    if (c != '{') {
        return;
    }
    skip_space(r);
    uint64_t min = read_number(r), max = min;
    skip_space(r);
    if (r.at < r.g.size() && r.g[r.at] == ',') {
        r.at++;
        skip_space(r);
        bool open = r.at < r.g.size() && r.g[r.at] == '}';
        max = open ? std::max<uint64_t>(min, 1) : read_number(r);
    }
    skip_space(r);
    r.at = std::min(r.g.find('}', r.at), r.g.size());
    r.at++;
    if (max < min) {
        throw std::invalid_argument("the grammar repeats something at least " +
                                    std::to_string(min) + " and at most " + std::to_string(max) +
                                    " times");
    }
    item.optional |= min == 0;
    item.times = std::min(item.times * std::max<uint64_t>(max, 1), paths_max);
}

static int rule_named(grammar_reader &r, const std::string &name)
{
    auto [at, is_new] = r.names.emplace(name, (int)r.rules.size());
    if (is_new) {
        r.rules.emplace_back();
    }
    return at->second;
}

/* Reads the alternatives of a rule, up to the next rule or the closing bracket. */
static void read_rule(grammar_reader &r, int into, int level)
{
    if (level > fb_brackets_max) { /* read by recursion, as in llama.cpp */
        throw std::invalid_argument("the grammar nests too deeply");
    }
    for (skip_space(r); r.at < r.g.size() && r.g[r.at] != ')'; skip_space(r)) {
        char c = r.g[r.at];
        size_t start = r.at;
        std::vector<grammar_item> &items = r.rules[into].alternatives.back();
        if (c == '|') {
            r.at++;
            r.rules[into].alternatives.emplace_back();
        } else if ((c == '*' || c == '+' || c == '?' || c == '{') && !items.empty()) {
            read_repetition(r, items.back());
        } else if (c == '"' || c == '[' || c == '<') {
            skip_to(r, c == '"' ? '"' : c == '[' ? ']' : '>');
            items.push_back({-1, c == '"' && r.at == start + 2, 1});
        } else if (c == '(') {
            int group = (int)r.rules.size();
            items.push_back({group, false, 1});
            r.rules.emplace_back();
            r.at++;
            read_rule(r, group, level + 1);
            r.at++;
        } else if (is_name(c)) {
            while (r.at < r.g.size() && is_name(r.g[r.at])) {
                r.at++;
            }
            std::string name = r.g.substr(start, r.at - start);
            skip_space(r);
            if (r.g.compare(r.at, 3, "::=") == 0) {
                r.at = start;
                return;
            }
            int named = rule_named(r, name);
            r.rules[into].alternatives.back().push_back({named, false, 1});
        } else {
            r.at++;
            items.push_back({-1, false, 1});
        }
    }
}

static void read_grammar(grammar_reader &r)
{
    for (skip_space(r); r.at < r.g.size(); skip_space(r)) {
        size_t start = r.at;
        while (r.at < r.g.size() && is_name(r.g[r.at])) {
            r.at++;
        }
        std::string name = r.g.substr(start, r.at - start);
        skip_space(r);
        if (name.empty() || r.g.compare(r.at, 3, "::=") != 0) {
            r.at = std::max(r.at, start + 1);
            continue;
        }
        r.at += 3;
        int named = rule_named(r, name);
        r.rules[named].alternatives.assign(1, {}); /* the last one of a name wins */
        read_rule(r, named, 0);
    }
}

/* Counts the paths of a rule. `steps`: rules on the way to it. */
static void count_paths(grammar_reader &r, int which, int steps)
{
    grammar_rule &rule = r.rules[which];
    if (rule.state == grammar_rule::KNOWN) {
        return;
    }
    if (rule.state == grammar_rule::ACTIVE) {
        throw std::invalid_argument("the grammar is left-recursive");
    }
    if (steps > steps_max) {
        throw std::invalid_argument("the grammar nests too deeply");
    }
    rule.state = grammar_rule::ACTIVE;
    for (const auto &items : rule.alternatives) {
        bool passable = true;
        for (size_t i = 0; i < items.size() && passable; i++) {
            if (i > optional_max) { /* all items before it are optional */
                throw std::invalid_argument("the grammar has too many optional parts in a row");
            }
            passable = items[i].optional;
            uint64_t paths = 1;
            if (items[i].rule >= 0) {
                count_paths(r, items[i].rule, steps + 1);
                const auto &first = r.rules[items[i].rule];
                passable |= first.nullable;
                paths = first.paths * (first.nullable ? items[i].times : 1);
            }
            rule.paths += paths;
        }
        rule.paths += passable;
        rule.nullable |= passable;
        if (rule.paths > paths_max) {
            throw std::invalid_argument("the grammar can begin in too many ways");
        }
    }
    rule.state = grammar_rule::KNOWN;
}

void fb_check_paths(const std::string &grammar)
{
    grammar_reader r{grammar, 0, {}, {}};
    read_grammar(r);
    for (size_t i = 0; i < r.rules.size(); i++) {
        count_paths(r, (int)i, 0);
    }
}
