/*
 * control_tokens.h - text whose parts are not to be trusted, made into tokens.
 *
 * llama.cpp makes control tokens of their names wherever they stand, so that "<|im_end|>" in a
 * user's message would end it. A template's output is one string, with no trace of where each part
 * came from. So the parts are marked before they are rendered, only where it matters, and the marks
 * are taken out again:
 *
 *      message   ... <|im_end|> ...        protect()
 *                ... ⟦<|im_end|>⟧ ...      rendered by the template
 *      prompt    ...⟦<|im_end|>⟧...<|im_end|>
 *                    a text                a control token          tokenize()
 *
 * Marks are two of Unicode's noncharacters that the request does not contain. A prompt without marks
 * is tokenized by llama.cpp in one piece.
 */
#ifndef FB_ENGINE_CONTROL_TOKENS_H
#define FB_ENGINE_CONTROL_TOKENS_H

#include <string>
#include <vector>

#include "llama.h"

class ControlTokens
{
  public:
    explicit ControlTokens(const llama_vocab *vocab);

    /* Of a request: the marks to use. Throws when all noncharacters are taken. */
    struct Marks {
        std::string open, close;
    };
    static Marks choose_marks(const std::string &request);

    /* Puts marks around names of control tokens, and around what could become one together with
     * what follows it. */
    std::string protect(const std::string &text, const Marks &marks) const;

    /* Takes the marks out of `text`, and tokenizes it: with BOS and the like; control tokens only
     * where no mark was. */
    std::vector<llama_token> tokenize(std::string &text, const Marks &marks) const;

    static std::string without_marks(const std::string &text, const Marks &marks);

  private:
    struct Token {
        std::string name;
        llama_token id;
        bool strip_left, strip_right;
    };
    struct Range {
        size_t begin, end;
    };

    const Token *at(const std::string &text, size_t pos) const;
    size_t begun_at_end(const std::string &text) const;
    std::vector<llama_token> tokenize_apart(
        const std::string &text, const std::vector<Range> &guarded) const;

    const llama_vocab *vocab;
    std::vector<Token> by_lead[256]; /* by first byte; the longest name first */
};

#endif
