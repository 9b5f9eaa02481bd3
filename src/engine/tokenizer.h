/*
 * tokenizer.h - text to tokens, in linear time and on a stack that suffices.
 *
 * llama.cpp's tokenizer has two faults that a text can exploit, so it gets only pieces of the text
 * that it handles well:
 *
 *   text     ...<|user|>...............................<|end|>...
 *                       |                             |
 *   divided here  piece                              control and user-defined tokens
 *                       |
 *   llama_tokenize      on this thread, or on one with a larger stack
 *
 * - It divides a text at the names of such tokens in a time that grows with the square of their
 *   number. We divide by the same rules, in linear time (E1 needs the same tokens).
 * - Many of its pre-tokenizers are std::regex, which recurses for each character of a run (of a
 *   word, a number, ...). The longest run of a piece determines the stack.
 */
#ifndef FB_ENGINE_TOKENIZER_H
#define FB_ENGINE_TOKENIZER_H

#include "forebay.h"
#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Thread-safe once made. */
struct fb_tokenizer;

/* `n_ctx`: tokens of the context. NULL when the vocabulary is empty (no tokenizer). */
struct fb_tokenizer *fb_tokenizer_new(const struct llama_vocab *vocab, uint32_t n_ctx);
void fb_tokenizer_free(struct fb_tokenizer *tokenizer);

/* Tokens of a text; the contract is that of forebay_tokenize. */
enum forebay_status fb_tokenizer_count(const struct fb_tokenizer *tokenizer, const char *text,
    size_t length, bool special, int32_t *tokens, size_t cap, size_t *n, struct forebay_error *err);

#ifdef __cplusplus
}

extern "C++" {
#include <functional>
#include <string>
#include <vector>

struct fb_byte_range {
    size_t begin, end;
};

/* The control token whose name stands at `pos`, the longest one: the bytes of its name; or 0. */
size_t fb_tokenizer_control_at(
    const struct fb_tokenizer *tokenizer, const std::string &text, size_t pos);
/* The first position of a control token's name that is cut off by the end of the text, or the
 * text's size. */
size_t fb_tokenizer_begun_at_end(const struct fb_tokenizer *tokenizer, const std::string &text);

/* Tokens of a text. `special`: with BOS and EOS as the model wants them, and control tokens for
 * their names, except where these touch one of the ranges `plain` (ascending, disjoint). Throws
 * fb_refusal for a text that cannot fit into the context (E_CONTEXT) or has too long a run
 * (E_USAGE). `check` is called before each piece, and ends the work by throwing. */
std::vector<llama_token> fb_tokenizer_run(
    const struct fb_tokenizer *tokenizer, const std::string &text, bool special,
    const std::vector<fb_byte_range> &plain, const std::function<void()> &check = [] {});
}
#endif

#endif
