/* prompts.c - see prompts.h. */
#include "serve/prompts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* --- Lists of tokens ----------------------------------------------------------------------- */

struct tokens {
    int32_t *list;
    size_t n;
};

static void add_token(struct tokens *t, int32_t token)
{
    if (token >= 0) {
        t->list = fb_xrealloc(t->list, (t->n + 1) * sizeof *t->list);
        t->list[t->n++] = token;
    }
}

static void add_model_token(
    const struct forebay_model *m, struct tokens *t, enum forebay_token_kind kind)
{
    if (forebay_model_adds_token(m, kind)) {
        add_token(t, forebay_model_token(m, kind));
    }
}

enum forebay_status fb_text_tokens(const struct forebay_model *m, const json_t *text, bool add,
    bool names, int32_t **tokens, size_t *n, struct forebay_error *err)
{
    const char *bytes = json_string_value(text);
    size_t length = json_string_length(text), got = 0, cap = length + 16;
    int32_t *list = fb_xcalloc(cap, sizeof *list);
    enum forebay_status status =
        forebay_tokenize(m, bytes ? bytes : "", length, names, list, cap, &got, err);
    if (status != FOREBAY_OK) {
        free(list);
        return status;
    }
    FB_ASSERT(got <= cap);
    /* forebay_tokenize adds BOS and EOS if, and only if, it heeds names. */
    size_t begin = names && !add && forebay_model_adds_token(m, FOREBAY_TOKEN_BOS) && got > 0;
    size_t end =
        got - (names && !add && forebay_model_adds_token(m, FOREBAY_TOKEN_EOS) && got > begin);
    struct tokens t = {0};
    if (add && !names) {
        add_model_token(m, &t, FOREBAY_TOKEN_BOS);
    }
    t.list = fb_xrealloc(t.list, (t.n + end - begin + 1) * sizeof *t.list);
    memcpy(t.list + t.n, list + begin, (end - begin) * sizeof *t.list);
    t.n += end - begin;
    if (add && !names) {
        add_model_token(m, &t, FOREBAY_TOKEN_EOS);
    }
    free(list);
    *tokens = t.list;
    *n = t.n;
    return FOREBAY_OK;
}

/* Adds the tokens of a text, without BOS and EOS. */
static void add_text(
    struct fb_exchange *x, struct fb_fields *f, struct tokens *t, const json_t *text, bool names)
{
    struct forebay_error err;
    int32_t *list;
    size_t n;
    if (fb_text_tokens(x->served->model, text, false, names, &list, &n, &err) != FOREBAY_OK) {
        fb_fields_fail(f, "%s", err.message);
        return;
    }
    t->list = fb_xrealloc(t->list, (t->n + n + 1) * sizeof *t->list);
    memcpy(t->list + t->n, list, n * sizeof *list);
    t->n += n;
    free(list);
}

/* --- Prompts ------------------------------------------------------------------------------- */

static bool all_are(json_t *list, bool (*is)(const json_t *))
{
    json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        if (!is(item)) {
            return false;
        }
    }
    return true;
}

static bool is_token(const json_t *value)
{
    return json_is_integer(value);
}

static bool is_piece(const json_t *value)
{
    return json_is_integer(value) || json_is_string(value);
}

static bool is_tokens(const json_t *value)
{
    return json_array_size(value) > 0 && all_are((json_t *)value, is_token);
}

static bool is_pieces(const json_t *value)
{
    return json_array_size(value) > 0 && all_are((json_t *)value, is_piece);
}

static bool is_plain(const json_t *value)
{
    return json_is_string(value) || is_tokens(value);
}

static bool is_mixed(const json_t *value)
{
    return json_is_string(value) || is_pieces(value);
}

/* A list of tokens, in which texts stand for their tokens. */
static void add_pieces(struct fb_exchange *x, struct fb_fields *f, json_t *list)
{
    struct tokens tokens = {0};
    json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        json_int_t token = json_integer_value(item);
        if (json_is_string(item)) {
            add_text(x, f, &tokens, item, true);
        } else if (token < 0 || token >= forebay_model_n_vocab(x->served->model)) {
            fb_fields_fail(f, "prompt: the vocabulary has no token %lld; it has %d",
                (long long)token, forebay_model_n_vocab(x->served->model));
        } else {
            add_token(&tokens, (int32_t)token);
        }
    }
    fb_exchange_tokens(x, f, tokens.list, tokens.n);
    free(tokens.list);
}

static void add_prompt(struct fb_exchange *x, struct fb_fields *f, json_t *value)
{
    if (json_is_string(value)) {
        fb_exchange_raw(x, f, value);
    } else {
        add_pieces(x, f, value);
    }
}

void fb_exchange_prompts(struct fb_exchange *x, struct fb_fields *f, json_t *value, bool mixed)
{
    size_t n = json_array_size(value);
    json_t *item;
    size_t i;
    if (is_plain(value)) {
        add_prompt(x, f, value);
    } else if (n > FB_PROMPTS_MAX) {
        fb_fields_fail(f, "prompt must be at most %d prompts, not %zu", FB_PROMPTS_MAX, n);
    } else if (n > 0 && all_are(value, mixed ? is_mixed : is_plain)) {
        json_array_foreach(value, i, item)
        {
            add_prompt(x, f, item);
        }
    } else if (mixed && is_pieces(value)) {
        add_prompt(x, f, value);
    } else {
        fb_fields_fail(f, "prompt must be a string, a list of token numbers, or a list of these");
    }
}

void fb_exchange_infill(
    struct fb_exchange *x, struct fb_fields *f, const json_t *before, const json_t *after)
{
    const struct forebay_model *m = x->served->model;
    struct tokens tokens = {0};
    int32_t prefix = forebay_model_token(m, FOREBAY_TOKEN_FIM_PREFIX);
    int32_t suffix = forebay_model_token(m, FOREBAY_TOKEN_FIM_SUFFIX);
    int32_t middle = forebay_model_token(m, FOREBAY_TOKEN_FIM_MIDDLE);
    if (prefix < 0 || suffix < 0 || middle < 0) {
        fb_fields_fail(f, "infilling (a suffix) is not supported: the model has no tokens for it");
    }
    if (!f->bad) {
        add_model_token(m, &tokens, FOREBAY_TOKEN_BOS);
        add_token(&tokens, prefix);
        add_text(x, f, &tokens, before, false);
        add_token(&tokens, suffix);
        add_text(x, f, &tokens, after, false);
        add_token(&tokens, middle);
        fb_exchange_tokens(x, f, tokens.list, tokens.n);
    }
    free(tokens.list);
}

/* --- Biases -------------------------------------------------------------------------------- */

static void add_bias(struct fb_exchange *x, struct fb_fields *f, int64_t token, json_t *value)
{
    double bias = json_is_false(value) ? -INFINITY : json_number_value(value);
    int n_vocab = forebay_model_n_vocab(x->served->model);
    if (token < 0 || token >= n_vocab || !(json_is_number(value) || json_is_false(value)) ||
        !(fabs(bias) <= 100 || json_is_false(value))) {
        fb_fields_fail(f,
            "logit_bias must give tokens below %d (not %lld) a number from -100 to 100, or false",
            n_vocab, (long long)token);
        return;
    }
    size_t n = x->sampling.n_biases++;
    x->biases = fb_xrealloc(x->biases, (n + 1) * sizeof *x->biases);
    x->biases[n] = (struct forebay_bias){(int32_t)token, bias <= -100 ? -INFINITY : (float)bias};
    x->sampling.biases = x->biases;
}

static void add_pair(struct fb_exchange *x, struct fb_fields *f, json_t *pair)
{
    json_t *key = json_array_get(pair, 0), *value = json_array_get(pair, 1);
    struct tokens tokens = {0};
    if (json_array_size(pair) != 2 || !is_piece(key)) {
        fb_fields_fail(f, "logit_bias must be an object, or a list of pairs [token, bias]");
    } else if (json_is_integer(key)) {
        add_bias(x, f, json_integer_value(key), value);
    } else {
        add_text(x, f, &tokens, key, false);
        for (size_t i = 0; i < tokens.n && !f->bad; i++) {
            add_bias(x, f, tokens.list[i], value);
        }
        free(tokens.list);
    }
}

void fb_exchange_biases(struct fb_exchange *x, struct fb_fields *f)
{
    json_t *biases = fb_field(f, "logit_bias"), *value;
    const char *key;
    size_t i;
    if (biases && !json_is_object(biases) && !json_is_array(biases)) {
        fb_fields_fail(f, "logit_bias must be an object, or a list of pairs [token, bias]");
    }
    json_object_foreach(biases, key, value)
    {
        char *end;
        long token = strtol(key, &end, 10);
        if (end == key || *end) {
            fb_fields_fail(f, "logit_bias must map numbers of tokens, and \"%.20s\" is none", key);
        } else {
            add_bias(x, f, token, value);
        }
    }
    json_array_foreach(biases, i, value)
    {
        add_pair(x, f, value);
    }
}
