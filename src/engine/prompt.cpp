/* prompt.cpp - prompts made from text or tokens as they are, and what all prompts answer. */
#include "engine/prompt.h"

#include "engine/guard.h"
#include "engine/tokenizer.h"

extern "C" {
#include "base/error.h"
#include "engine/model.h"
}

enum forebay_status forebay_prompt_from_text(const struct forebay_model *m, const char *text,
    size_t length, struct forebay_prompt **out, struct forebay_error *err)
{
    if (!forebay_model_has_text(m)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Give token ids (--tokens 1,2,3).",
            "the model has no tokenizer");
    }
    auto prompt = new forebay_prompt;
    enum forebay_status status =
        fb_guarded_status(FOREBAY_E_USAGE, err, "", "tokenize the text", [&] {
            prompt->text.assign(text, length);
            prompt->tokens = fb_tokenizer_run(m->tokenizer, prompt->text, true, {});
            return true;
        });
    if (status == FOREBAY_OK && prompt->tokens.empty()) {
        status = fb_fail(err, FOREBAY_E_USAGE, "Give it some text.", "the prompt is empty");
    }
    if (status != FOREBAY_OK) {
        delete prompt;
        return status;
    }
    *out = prompt;
    return FOREBAY_OK;
}

enum forebay_status forebay_prompt_from_tokens(const struct forebay_model *m, const int32_t *tokens,
    size_t n, struct forebay_prompt **out, struct forebay_error *err)
{
    if (n == 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give it some text.", "the prompt is empty");
    }
    for (size_t i = 0; i < n; i++) {
        enum forebay_status status = fb_model_check_token(m, tokens[i], err);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    auto prompt = new forebay_prompt;
    prompt->tokens.assign(tokens, tokens + n);
    *out = prompt;
    return FOREBAY_OK;
}

struct forebay_prompt *forebay_prompt_share(const struct forebay_prompt *prompt)
{
    prompt->owners++;
    return const_cast<struct forebay_prompt *>(prompt);
}

void forebay_prompt_free(struct forebay_prompt *prompt)
{
    if (prompt && --prompt->owners == 0) {
        delete prompt;
    }
}

const char *forebay_prompt_text(const struct forebay_prompt *prompt, size_t *length)
{
    if (length) {
        *length = prompt->text.size();
    }
    return prompt->text.c_str();
}

const int32_t *forebay_prompt_tokens(const struct forebay_prompt *prompt, size_t *n)
{
    *n = prompt->tokens.size();
    return prompt->tokens.data();
}

bool fb_prompt_shows(const struct forebay_prompt *prompt, int32_t token)
{
    return prompt->shown.count(token) > 0;
}

const char *fb_prompt_stop(const struct forebay_prompt *prompt, size_t i)
{
    return i < prompt->stops.size() ? prompt->stops[i].c_str() : NULL;
}
