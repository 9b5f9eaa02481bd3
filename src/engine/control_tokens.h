/*
 * control_tokens.h - tokenizes text that contains untrusted parts.
 *
 * llama.cpp turns the names of control tokens into these tokens wherever they occur, so
 * "<|im_end|>" in a user's message would end the message. A template's output is one string,
 * without a trace of the origin of each part. So names in untrusted parts are marked before
 * rendering, and the marks are removed when the result is tokenized:
 *
 *      message   ... <|im_end|> ...        protect()
 *                ... ⟦<|im_end|>⟧ ...      rendered by the template
 *      prompt    ...⟦<|im_end|>⟧...<|im_end|>
 *                    text                  control token             tokenize()
 *
 * The marks are two of Unicode's noncharacters that the request does not contain. A prompt without
 * marks is tokenized by llama.cpp in one piece.
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

    /* The marks to use for a request (JSON). Throws when it contains all noncharacters. */
    struct Marks {
        std::string open, close;
    };
    static Marks choose_marks(const std::string &request);

    /* Puts marks around names of control tokens, and around the beginning of such a name at the end
     * of the text, which could be completed by the text that follows it. */
    std::string protect(const std::string &text, const Marks &marks) const;

    /* Removes the marks from `text` and tokenizes it, with BOS and EOS as the model wants them.
     * Marked names become text, others control tokens. */
    std::vector<llama_token> tokenize(std::string &text, const Marks &marks) const;

    static std::string without_marks(const std::string &text, const Marks &marks);

  private:
    struct Token {
        std::string name;
        llama_token id;
        bool strip_left, strip_right; /* swallows white space before, behind it */
    };
    struct Range { /* of bytes that were marked */
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
