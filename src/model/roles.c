/*
 * roles.c - the rules that turn llama.cpp's tensor names into layers, roles and experts. fb_role_of
 * applies them: first the words that may stand anywhere in a base name, then the table of prefixes.
 */
#include "model/roles.h"

#include <string.h>

const char *fb_role_name(enum fb_role role)
{
    static const char *const text[] = {
#define FB_ROLE_TEXT(name, text) text,
        FB_ROLE_LIST(FB_ROLE_TEXT)
#undef FB_ROLE_TEXT
    };
    return (unsigned)role < FB_ROLE_COUNT ? text[role] : "?";
}

static bool starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool contains(const char *s, const char *part)
{
    return strstr(s, part) != NULL;
}

static bool is(const char *base, const char *word)
{
    size_t n = strlen(word);
    return strncmp(base, word, n) == 0 && (base[n] == 0 || base[n] == '.');
}

/* Length of the number at `s` when it is a whole component of the name ("12." or "12" at the end),
 * else 0. Six digits are more than any model has. */
static size_t number_component(const char *s)
{
    size_t n = strspn(s, "0123456789");
    return n > 0 && n <= 6 && (s[n] == '.' || s[n] == 0) ? n : 0;
}

/* The number of the first numbered component, or -1; *base is the rest after it, or the name. */
static int split_layer(const char *name, const char **base)
{
    *base = name;
    for (const char *s = name; (s = strchr(s, '.')) != NULL;) {
        s++;
        size_t digits = number_component(s);
        if (digits > 0) {
            int number = 0;
            for (size_t i = 0; i < digits; i++) {
                number = number * 10 + (s[i] - '0');
            }
            *base = s[digits] ? s + digits + 1 : s + digits;
            return number;
        }
    }
    return -1;
}

int fb_layer_of(const char *name)
{
    const char *base;
    return split_layer(name, &base);
}

/* "weight" of "blk.0.attn_q.weight"; "" when there is no dot. */
static const char *suffix_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : "";
}

/* Experts stacked in one tensor: the routed ones, and the chunks of grovemoe. */
static bool is_stack(const char *base)
{
    return (contains(base, "_exps.") || contains(base, "_chexps.")) && !contains(base, "norm");
}

int fb_expert_dim_of(const char *name)
{
    const char *base;
    split_layer(name, &base);
    if (!is_stack(base)) {
        return -1;
    }
    const char *suffix = suffix_of(name);
    return strcmp(suffix, "weight") == 0 ? 2 : strcmp(suffix, "bias") == 0 ? 1 : 0;
}

bool fb_is_row_table(const char *name)
{
    const char *base;
    split_layer(name, &base);
    return strcmp(suffix_of(name), "weight") == 0 &&
           (is(base, "token_embd") || is(base, "position_embd") || is(base, "token_types") ||
               is(base, "per_layer_token_embd") || is(base, "nextn.embed_tokens"));
}

/* Role of an expert's part; the base begins with "ffn_gate", "ffn_gate_up", ... */
static enum fb_role expert_part(const char *base)
{
    return contains(base, "gate_up") ? FB_ROLE_EXPERT_GATE_UP
           : contains(base, "gate")  ? FB_ROLE_EXPERT_GATE
           : contains(base, "up")    ? FB_ROLE_EXPERT_UP
           : contains(base, "down")  ? FB_ROLE_EXPERT_DOWN
                                     : FB_ROLE_EXPERT_AUX;
}

/* "ffn_gate.7.weight": one tensor per expert, as the first Mixtral files had them. */
static bool is_single_expert(const char *base)
{
    const char *dot = strchr(base, '.');
    return starts(base, "ffn_") && dot && number_component(dot + 1) > 0;
}

static enum fb_role expert_role(const char *base, const char *suffix)
{
    return strcmp(suffix, "weight") == 0 ? expert_part(base) : FB_ROLE_EXPERT_AUX;
}

/* By the beginning of the base name; tried in order, after the other rules of fb_role_of. */
static const struct {
    const char *prefix;
    enum fb_role role;
} by_prefix[] = {
    {"ffn_gate_inp", FB_ROLE_ROUTER},
    {"ffn_gate_tid2eid", FB_ROLE_ROUTER},
    {"exp_probs_b", FB_ROLE_ROUTER},
    {"token_embd", FB_ROLE_EMBEDDING},
    {"token_types", FB_ROLE_EMBEDDING},
    {"position_embd", FB_ROLE_EMBEDDING},
    {"per_layer_token_embd", FB_ROLE_EMBEDDING},
    {"nextn.embed_tokens", FB_ROLE_EMBEDDING},
    {"nextn.shared_head_head", FB_ROLE_OUTPUT},
    {"attn_", FB_ROLE_ATTENTION},
    {"cross_attn_", FB_ROLE_ATTENTION},
    {"vis_attn_", FB_ROLE_ATTENTION},
    {"indexer", FB_ROLE_ATTENTION},
    {"ssm_", FB_ROLE_ATTENTION},
    {"time_mix_", FB_ROLE_ATTENTION},
    {"shortconv", FB_ROLE_ATTENTION},
    {"channel_mix_", FB_ROLE_DENSE_FFN},
    {"vis_gate", FB_ROLE_DENSE_FFN},
    {"vis_up", FB_ROLE_DENSE_FFN},
    {"vis_down", FB_ROLE_DENSE_FFN},
    {"ffn_", FB_ROLE_DENSE_FFN},
    {"ffn.", FB_ROLE_DENSE_FFN},
};

enum fb_role fb_role_of(const char *name)
{
    const char *base;
    split_layer(name, &base);
    if (is_stack(base) || is_single_expert(base)) {
        return expert_role(base, suffix_of(name));
    }
    if (contains(base, "norm") || is(base, "time_mix_ln")) {
        return FB_ROLE_NORM;
    }
    if (contains(base, "_shexp")) {
        return FB_ROLE_SHARED_EXPERT;
    }
    if (is(base, "output") || is(base, "cls")) {
        return FB_ROLE_OUTPUT;
    }
    for (size_t i = 0; i < sizeof by_prefix / sizeof by_prefix[0]; i++) {
        if (starts(base, by_prefix[i].prefix)) {
            return by_prefix[i].role;
        }
    }
    return FB_ROLE_OTHER;
}
