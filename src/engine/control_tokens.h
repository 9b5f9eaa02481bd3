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
 * The marks are two of Unicode's noncharacters that the request does not contain.
 */
#ifndef FB_ENGINE_CONTROL_TOKENS_H
#define FB_ENGINE_CONTROL_TOKENS_H

#include <functional>
#include <string>
#include <vector>

#include "engine/tokenizer.h"

class ControlTokens
{
  public:
    explicit ControlTokens(const struct fb_tokenizer *t) : tokenizer(t)
    {
    }

    /* The marks to use for a request (JSON). Throws when it contains all noncharacters. */
    struct Marks {
        std::string open, close;
    };
    static Marks choose_marks(const std::string &request);

    /* Puts marks around names of control tokens, and around the beginning of such a name at the end
     * of the text, which could be completed by the text that follows it. */
    std::string protect(const std::string &text, const Marks &marks) const;

    /* Removes the marks from `text` and tokenizes it, with BOS and EOS as the model wants them.
     * Marked names become text, others control tokens. `check` and what is thrown: as for
     * fb_tokenizer_run. */
    std::vector<llama_token> tokenize(
        std::string &text, const Marks &marks, const std::function<void()> &check) const;

    static std::string without_marks(const std::string &text, const Marks &marks);

  private:
    const struct fb_tokenizer *tokenizer;
};

#endif
