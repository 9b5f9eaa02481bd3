#include "engine/describe.h"

#include <stdio.h>

#include "backend/lending.h"
#include "model/meta.h"

/* How far off estimates were: with earlier runs of the model to go by, without them, and where not
 * even the processor was measured. */
#define RANGE_SEEN    0.15
#define RANGE_UNSEEN  0.35
#define RANGE_GUESSED 0.7
#define RANGE_PROMPT  0.25

static struct forebay_device_use describe_device(const struct fb_preflight *p)
{
    struct forebay_device_use use = {0};
    const char *name = "none";
    if (fb_devices_used(&p->devices)) {
        name = ggml_backend_dev_name(p->devices.list[0]);
        use.n_layers = p->devices.plan.n_layers;
        bool whole = p->catalog->n_expert == 0 && !p->devices.plan.ffns_apart;
        use.n_whole = whole ? use.n_layers : p->devices.plan.n_whole;
        use.n_slotted = p->devices.plan.n_slotted;
        use.slots_shared = p->devices.plan.slots_shared;
        use.bytes = p->needs.device_bytes;
        use.room_bytes = p->devices.room_bytes;
    }
    snprintf(use.name, sizeof use.name, "%s", name);
    return use;
}

struct forebay_placement fb_describe_placement(const struct fb_preflight *p,
    struct fb_binding *binding, const struct fb_plan *plan, uint64_t context_bytes)
{
    struct forebay_placement out = {
        .budget_bytes = p->options.mem_bytes,
        .weights_bytes = p->catalog->tensor_bytes,
        .kv_bytes = p->needs.kv_bytes,
        .compute_bytes = p->needs.compute_bytes,
        .context_bytes = p->needs.kv_bytes + p->needs.compute_bytes,
        .resident_bytes = fb_preflight_host_bytes(p),
        .n_layers = p->catalog->n_layer,
        .fits = !plan || plan->everything_fits,
        .batch = p->options.batch,
        .ctx = p->options.ctx,
        .ctx_trained =
            (uint32_t)fb_meta_arch_uint(p->catalog->meta, p->catalog->arch, "context_length", 0),
        .ctx_by_memory = p->ctx_by_memory,
        .device = describe_device(p),
    };
    if (!plan) {
        return out;
    }
    const struct fb_weights *ws = fb_binding_weights(binding);
    out.context_bytes = context_bytes;
    out.minimum_bytes = p->minimum_bytes;
    out.minimum_weights_bytes = fb_plan_minimum(ws);
    out.fixed_bytes = fb_preflight_unclaimed_bytes(p, ws);
    out.resident_bytes = out.fixed_bytes + plan->resident_bytes;
    out.cache_bytes = plan->cache_bytes;
    out.lent_bytes = plan->lent_bytes;
    if (plan->batch_bytes > 0) {
        out.compute_bytes = fb_lending_own(out.compute_bytes, p->options.batch, p->options.n_seq);
    }
    out.sidecar_bytes = p->sidecar ? fb_binding_sidecar_bytes(binding) : 0;
    out.ring_bytes = plan->total_bytes - plan->resident_bytes - plan->cache_bytes;
    out.streamed_bytes = plan->streamed_bytes;
    out.n_slots = plan->shared_slots;
    for (int g = 0; g < ws->n_groups; g++) {
        out.n_slots += plan->slots ? plan->slots[g] : 0;
        out.n_experts += ws->groups[g].n_expert;
    }
    return out;
}

struct forebay_speed fb_describe_speed(
    const struct fb_preflight *p, const struct fb_speed *speed, double disk_bytes_per_s)
{
    const struct forebay_model_options *o = &p->options;
    bool seen = p->history && fb_history_compute_s(p->history, o->threads, o->repack) > 0;
    bool measured = p->profile.n_rates > 0;
    double range = seen ? RANGE_SEEN : measured ? RANGE_UNSEEN : RANGE_GUESSED;
    return (struct forebay_speed){
        .decode_tok_per_s = speed->decode_tok_per_s,
        .decode_low = speed->decode_tok_per_s * (1 - range),
        .decode_high = speed->decode_tok_per_s * (1 + range),
        .prompt_tok_per_s = speed->prompt_tok_per_s,
        .prompt_low = speed->prompt_tok_per_s * (1 - RANGE_PROMPT),
        .prompt_high = speed->prompt_tok_per_s * (1 + RANGE_PROMPT),
        .time_to_first_token_s =
            speed->prompt_tok_per_s > 0 ? o->batch / speed->prompt_tok_per_s : 0,
        .load_s = disk_bytes_per_s > 0 ? speed->load_s : 0,
        .hit_rate = speed->hit_rate,
        .read_bytes = speed->read_bytes,
        .read_s = speed->read_s,
        .compute_s = speed->compute_s,
        .unpack_s = speed->unpack_s,
        .disk_bytes_per_s = disk_bytes_per_s,
        .limit = speed->limit,
        .seen = seen,
        .measured = measured,
    };
}
