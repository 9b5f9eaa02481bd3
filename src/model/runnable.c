/*
 * runnable.c - checks for key-values that make llama.cpp abort or divide by zero instead of
 * refusing the file.
 *
 * Found by changing every value of the test models in turn and loading them. The remaining aborts
 * are GGML_ASSERTs on details of single architectures.
 */
#include "model/runnable.h"

#include <inttypes.h>

#include "base/error.h"
#include "model/meta.h"

#include "gguf.h"

static enum forebay_status contradiction(
    const struct fb_catalog *c, const char *what, int64_t value, struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_FORMAT, "Download the model again, or convert it again.",
        "%s contradicts itself: %s (%" PRId64 ")", c->files[0]->path, what, value);
}

enum forebay_status fb_catalog_check_runnable(const struct fb_catalog *c, struct forebay_error *err)
{
    uint64_t layers = fb_meta_arch_uint(c->meta, c->arch, "block_count", 1);
    uint64_t nextn = fb_meta_arch_uint(c->meta, c->arch, "nextn_predict_layers", 0);
    uint64_t groups = fb_meta_arch_uint(c->meta, c->arch, "expert_group_count", 0);
    int64_t tokens = gguf_find_key(c->meta, "tokenizer.ggml.tokens");
    if (layers == 0) {
        return contradiction(c, "it has no layers", 0, err);
    }
    if (nextn > layers) {
        return contradiction(
            c, "it has more next-token-prediction layers than layers", (int64_t)nextn, err);
    }
    if (c->n_expert_used > c->n_expert) {
        return contradiction(
            c, "a token uses more experts than the model has", c->n_expert_used, err);
    }
    if (c->n_expert > 1 && c->n_expert_used == 0) {
        return contradiction(c, "a token uses none of its experts", c->n_expert, err);
    }
    if (groups > 0 && c->n_expert > 1 && groups >= (uint64_t)c->n_expert) {
        return contradiction(
            c, "it has as many groups of experts as experts", (int64_t)groups, err);
    }
    if (tokens >= 0 && gguf_get_kv_type(c->meta, tokens) == GGUF_TYPE_ARRAY &&
        gguf_get_arr_n(c->meta, tokens) == 0) {
        return contradiction(c, "its vocabulary is empty", 0, err);
    }
    return FOREBAY_OK;
}
