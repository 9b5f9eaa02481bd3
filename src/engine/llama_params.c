#include "engine/llama_params.h"

#include <stdio.h>

#include "base/units.h"
#include "engine/model_options.h"
#include "model/meta.h"

void fb_llama_overrides_init(struct fb_llama_overrides *overrides,
    const struct forebay_model_options *o, const struct fb_catalog *c)
{
    static const char key[] = "rope.scaling.original_context_length";
    uint64_t trained = fb_meta_arch_uint(c->meta, c->arch, "context_length", 0);
    uint64_t first = fb_meta_arch_uint(c->meta, c->arch, key, trained);
    *overrides = (struct fb_llama_overrides){0};
    if (fb_catalog_find(c, "rope_factors_long.weight") >= 0 && o->ctx <= first &&
        fb_options_cells(o) > first) {
        struct llama_model_kv_override *override = &overrides->list[0];
        override->tag = LLAMA_KV_OVERRIDE_TYPE_INT;
        snprintf(override->key, sizeof override->key, "%s.%s", c->arch, key);
        override->val_i64 = fb_options_cells(o);
        overrides->ctx_orig = (uint32_t)first;
    }
}

struct llama_model_params fb_llama_model_params(const struct forebay_model_options *o,
    const struct fb_catalog *catalog, struct fb_devices *devices,
    const struct fb_llama_overrides *overrides, enum fb_load_purpose purpose)
{
    static ggml_backend_dev_t no_devices[] = {NULL};
    struct llama_model_params params = llama_model_default_params();
    params.devices = no_devices;
    params.n_gpu_layers = 0;
    if (fb_options_map_file(o)) {
        params.load_mode = LLAMA_LOAD_MODE_MMAP;
    } else {
        params.load_mode = LLAMA_LOAD_MODE_NONE;
        params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    }
    params.use_extra_bufts = o->repack;
    params.kv_overrides = overrides->ctx_orig > 0 ? overrides->list : NULL;
    fb_devices_model_params(devices, catalog, purpose, &params);
    return params;
}

struct llama_context_params fb_llama_context_params(const struct forebay_model_options *o,
    const struct fb_devices *devices, const struct fb_llama_overrides *overrides, bool claimed)
{
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = fb_options_cells(o);
    params.n_seq_max = fb_options_sequences(o);
    /* llama.cpp requires room for a row of each sequence. */
    params.n_batch = (uint32_t)fb_max(o->batch, params.n_seq_max);
    params.n_ubatch = params.n_batch;
    params.n_outputs_max = o->all_logits ? params.n_batch : params.n_seq_max;
    params.kv_unified = params.n_seq_max > 1;
    params.yarn_orig_ctx = overrides->ctx_orig; /* 0: the model's */
    params.n_threads = o->threads;
    params.n_threads_batch = o->threads;
    params.no_perf = true;
    if (claimed) {
        /* "Auto" would resolve to this on the CPU. Here it would resolve to off, because attention
         * is computed on our device while the layer counts as the CPU's. */
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    fb_devices_context_params(devices, &params);
    return params;
}
