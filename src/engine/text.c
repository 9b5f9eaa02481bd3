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

static size_t piece_of(
    const struct forebay_model *m, int32_t token, char *buf, size_t cap, bool names)
{
    if (!forebay_model_has_text(m) || token < 0 || token >= forebay_model_n_vocab(m)) {
        return 0;
    }
    int32_t n = llama_token_to_piece(m->vocab, token, buf, (int32_t)cap, 0, names);
    return n > 0 ? (size_t)n : 0;
}

size_t forebay_token_bytes(const struct forebay_model *m, int32_t token, char *buf, size_t cap)
{
    return piece_of(m, token, buf, cap, false);
}

size_t forebay_token_name(const struct forebay_model *m, int32_t token, char *buf, size_t cap)
{
    return piece_of(m, token, buf, cap, true);
}

int32_t forebay_model_token(const struct forebay_model *m, enum forebay_token_kind kind)
{
    switch (kind) {
    case FOREBAY_TOKEN_BOS:
        return llama_vocab_bos(m->vocab);
    case FOREBAY_TOKEN_EOS:
        return llama_vocab_eos(m->vocab);
    case FOREBAY_TOKEN_FIM_PREFIX:
        return llama_vocab_fim_pre(m->vocab);
    case FOREBAY_TOKEN_FIM_SUFFIX:
        return llama_vocab_fim_suf(m->vocab);
    case FOREBAY_TOKEN_FIM_MIDDLE:
        return llama_vocab_fim_mid(m->vocab);
    case FOREBAY_TOKEN_FIM_FILE:
        return llama_vocab_fim_sep(m->vocab);
    }
    return -1;
}

bool forebay_model_adds_token(const struct forebay_model *m, enum forebay_token_kind kind)
{
    return kind == FOREBAY_TOKEN_BOS   ? llama_vocab_get_add_bos(m->vocab)
           : kind == FOREBAY_TOKEN_EOS ? llama_vocab_get_add_eos(m->vocab)
                                       : false;
}
