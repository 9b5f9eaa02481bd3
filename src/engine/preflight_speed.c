/* preflight_speed.c - what a preflight says of the speed: the inputs of plan/estimate.h. */
#include "base/units.h"
#include "engine/model_options.h"
#include "engine/preflight.h"
#include "model/meta.h"

static const char *type_name(int type)
{
    return ggml_type_name((enum ggml_type)type);
}

double fb_preflight_usual_past(const struct fb_preflight *p)
{
    return fb_min(p->options.batch, p->options.ctx);
}

/* Each head does a multiply-add for each of its keys and values, which several heads may share. Too
 * much or too little for models whose layers differ or see only a window. */
double fb_preflight_attention_s(const struct fb_preflight *p, double past, bool batch)
{
    const struct gguf_context *meta = p->catalog->meta;
    const char *arch = p->catalog->arch;
    double heads = (double)fb_meta_arch_uint(meta, arch, "attention.head_count", 1);
    double shared = (double)fb_meta_arch_uint(meta, arch, "attention.head_count_kv", 0);
    double cached =
        (double)p->needs.kv_bytes / sizeof(uint16_t) * past / fb_options_cells(&p->options);
    const struct fb_profile_rate *r =
        fb_profile_rate(&p->profile, FB_PROFILE_ATTENTION, false, p->options.threads);
    double rate = !r ? 0 : batch ? r->batch : r->decode;
    return rate > 0 ? cached * (shared > 0 ? heads / shared : 1) / rate : 0;
}

void fb_preflight_estimate(const struct fb_preflight *p, const struct fb_weights *ws,
    const struct fb_plan *plan, double disk_bytes_per_s, double past, struct fb_speed *out)
{
    const struct forebay_model_options *o = &p->options;
    uint64_t touched = fb_catalog_bytes_per_token(p->catalog), ours = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        ours += w->file_bytes * (w->group < 0 ? 1 : (uint64_t)p->catalog->n_expert_used);
    }
    struct fb_speed_inputs in = {
        .weights = ws,
        .plan = plan,
        .curves = p->curves,
        .profile = &p->profile,
        .type_name = type_name,
        .threads = o->threads,
        .repack = o->repack,
        .disk_bytes_per_s = disk_bytes_per_s > 0 ? disk_bytes_per_s : 1,
        .disk_burst = p->disk.burst,
        .disk_latency_s = p->disk.latency_s,
        .other_bytes = touched > ours ? touched - ours : 0,
        .context_bytes = p->needs.kv_bytes + p->needs.compute_bytes,
        .unclaimed_bytes = fb_preflight_unclaimed_bytes(p, ws),
        .lookahead = o->lookahead > 0 ? fb_history_lookahead(p->history) : 0,
        .attention_s = fb_preflight_attention_s(p, past, false),
        .prompt_attention_s = fb_preflight_attention_s(p, o->batch / 2.0, true),
        .read_cpu_s = p->disk.cpu_s,
        .compute_s = fb_history_compute_s(p->history, o->threads, o->repack),
        .prompt_compute_s = fb_history_prompt_s(p->history, o->threads, o->repack),
        .batch = o->batch,
    };
    fb_estimate(&in, out);
}
