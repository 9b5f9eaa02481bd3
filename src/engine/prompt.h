/* prompt.h - the inside of a prompt. C code sees only the functions at the end. */
#ifndef FB_ENGINE_PROMPT_H
#define FB_ENGINE_PROMPT_H

#include "forebay.h"

#ifdef __cplusplus
#include <atomic>
#include <set>
#include <string>
#include <vector>

#include "common/chat.h"
#include "llama.h"

struct forebay_prompt {
    mutable std::atomic<int> owners{1}; /* freed with the last one */
    std::string text;                   /* "" when it was made from tokens */
    std::vector<llama_token> tokens;
    std::vector<std::string> stops;
    std::set<llama_token> shown; /* control tokens whose names are part of generated text */

    /* For llama.cpp's sampler: the grammar, and the tokens around reasoning. */
    common_grammar grammar;
    bool grammar_lazy = false;
    std::vector<common_grammar_trigger> triggers;
    std::string generation_prompt; /* the beginning of the reply, where the template writes it */
    std::vector<llama_token> thinking_start;
    std::vector<std::vector<llama_token>> thinking_ends;

    bool parsed = false; /* replies are parsed; false: all text is content */
    common_chat_parser_params parser;
};

extern "C" {
#endif

/* Whether the name of the control token is part of generated text. */
bool fb_prompt_shows(const struct forebay_prompt *prompt, int32_t token);
/* The i-th stop string of the template; NULL after the last. */
const char *fb_prompt_stop(const struct forebay_prompt *prompt, size_t i);

#ifdef __cplusplus
}
#endif

#endif
