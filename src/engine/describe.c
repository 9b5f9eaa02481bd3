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

static void describe_devices(const struct fb_preflight *p, struct forebay_placement *out)
{
    const struct fb_devices *devices = &p->devices;
    bool apart = p->catalog->n_expert > 0 || devices->plan.ffns_apart;
    int first, end, n = p->catalog->n_layer;
    fb_devices_slotted(devices, p->catalog, &first, &end);
    out->n_devices = fb_devices_used(devices) ? devices->n : 0;
    for (int d = 0; d < out->n_devices; d++) {
        struct forebay_device_use *use = &out->devices[d];
        snprintf(use->name, sizeof use->name, "%s", ggml_backend_dev_name(devices->all[d].dev));
        use->n_layers = devices->plan.layers_on[d];
        use->bytes = fb_devices_bytes_on(devices, &p->needs, d);
        use->room_bytes = devices->rooms.bytes[d];
        for (int l = 0; l < n; l++) {
            bool here = fb_offload_device_of(&devices->plan, n, l) == d;
            use->n_whole += here && (l >= end || !apart);
            use->n_slotted += here && l >= first && l < end;
        }
        use->slots_shared = use->n_slotted > 0 && devices->plan.slots_shared;
    }
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
    };
    describe_devices(p, &out);
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
