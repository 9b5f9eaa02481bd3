/*
 * prompts.h - prompts of requests that no chat template makes: texts, token numbers, texts to fill
 * in; and biases of tokens.
 */
#ifndef FB_SERVE_PROMPTS_H
#define FB_SERVE_PROMPTS_H

#include "serve/exchange.h"

/* Adds the prompts of a field "prompt": a string, a list of token numbers, or a list of such
 * prompts. `mixed`: lists of token numbers may contain texts, as llama.cpp's server allows. If that
 * fails, `fields` is bad. */
void fb_exchange_prompts(
    struct fb_exchange *exchange, struct fb_fields *fields, json_t *value, bool mixed);

/* Adds a prompt for the text between two strings (NULL: empty), by the model's tokens for that. If
 * it has none, or `fields` is bad already, `fields` is bad. */
void fb_exchange_infill(struct fb_exchange *exchange, struct fb_fields *fields,
    const json_t *before, const json_t *after);

/* Reads logit_bias: an object {token: bias}, or llama.cpp's list of pairs [token or text, bias],
 * where false means never. The array hangs on the exchange. */
void fb_exchange_biases(struct fb_exchange *exchange, struct fb_fields *fields);

/* Tokens of a text, to be freed with free(). `add`: with BOS and EOS as the model wants them;
 * `names`: names of control tokens become control tokens. Errors: as forebay_tokenize. */
enum forebay_status fb_text_tokens(const struct forebay_model *model, const json_t *text, bool add,
    bool names, int32_t **tokens, size_t *n, struct forebay_error *err);

#endif
