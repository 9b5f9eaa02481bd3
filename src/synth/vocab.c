/* vocab.c - see vocab.h. */
#include "synth/vocab.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

#include "gguf.h"

/* Token types as GGUF numbers them. */
enum { TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_BYTE = 6 };

#define TEXT_MAX 16

static int32_t token(int id, int n_words, char text[TEXT_MAX])
{
    static const char *const last[] = {"<unk>", "<s>", "</s>"};
    int extra = id - n_words;
    if (extra < 0) {
        snprintf(text, TEXT_MAX, "w%d ", id);
        return TOKEN_USER_DEFINED;
    }
    if (extra < 256) {
        snprintf(text, TEXT_MAX, "<0x%02X>", (unsigned)extra);
        return TOKEN_BYTE;
    }
    snprintf(text, TEXT_MAX, "%s", last[extra - 256]);
    return extra == 256 ? TOKEN_UNKNOWN : TOKEN_CONTROL;
}

void fb_synth_vocab_add(struct fb_synth_model *model, int n_vocab)
{
    int n_words = n_vocab - FB_SYNTH_EXTRA_TOKENS;
    FB_ASSERT(n_words > 0);
    size_t n = (size_t)n_vocab;
    char(*text)[TEXT_MAX] = fb_xcalloc(n, sizeof *text);
    const char **pointers = fb_xcalloc(n, sizeof *pointers);
    float *scores = fb_xcalloc(n, sizeof *scores);
    int32_t *types = fb_xcalloc(n, sizeof *types);
    for (int i = 0; i < n_vocab; i++) {
        types[i] = token(i, n_words, text[i]);
        pointers[i] = text[i];
    }
    struct gguf_context *meta = model->meta;
    gguf_set_val_str(meta, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(meta, "tokenizer.ggml.tokens", pointers, n);
    gguf_set_arr_data(meta, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, n);
    gguf_set_arr_data(meta, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types, n);
    gguf_set_val_u32(meta, "tokenizer.ggml.unknown_token_id", (uint32_t)n_vocab - 3);
    gguf_set_val_u32(meta, "tokenizer.ggml.bos_token_id", (uint32_t)n_vocab - 2);
    gguf_set_val_u32(meta, "tokenizer.ggml.eos_token_id", (uint32_t)n_vocab - 1);
    gguf_set_val_bool(meta, "tokenizer.ggml.add_bos_token", false);
    gguf_set_val_bool(meta, "tokenizer.ggml.add_eos_token", false);
    gguf_set_val_bool(meta, "tokenizer.ggml.add_space_prefix", false);
    free(types);
    free(scores);
    free(pointers);
    free(text);
}
