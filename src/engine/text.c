/* text.c - converts between text and tokens. */
#include "base/error.h"
#include "engine/model.h"

bool forebay_model_has_text(const struct forebay_model *m)
{
    return llama_vocab_type(m->vocab) != LLAMA_VOCAB_TYPE_NONE;
}

bool forebay_model_is_eog(const struct forebay_model *m, int32_t token)
{
    return forebay_model_has_text(m) && llama_vocab_is_eog(m->vocab, token);
}

enum forebay_status forebay_tokenize(const struct forebay_model *m, const char *text, size_t length,
    bool special, int32_t *tokens, size_t cap, size_t *n, struct forebay_error *err)
{
    if (!forebay_model_has_text(m)) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Give token ids (--tokens 1,2,3).",
            "the model has no tokenizer");
    }
    return fb_tokenizer_count(m->tokenizer, text, length, special, tokens, cap, n, err);
}

size_t forebay_token_bytes(const struct forebay_model *m, int32_t token, char *buf, size_t cap)
{
    if (!forebay_model_has_text(m) || token < 0 || token >= forebay_model_n_vocab(m)) {
        return 0;
    }
    int32_t n = llama_token_to_piece(m->vocab, token, buf, (int32_t)cap, 0, false);
    return n > 0 ? (size_t)n : 0;
}
