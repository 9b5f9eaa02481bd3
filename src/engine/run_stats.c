/* run_stats.c - forebay_stats_get: the figures of a session (docs/STATS.md). */
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "engine/session.h"
#include "gpu/gpu_slots.h"
#include "os/memory.h"

static double rate(uint64_t count, uint64_t ns)
{
    return ns ? (double)count / ((double)ns * 1e-9) : 0;
}

/* The estimate for the tokens that were decoded: with the average number of tokens before them.
 * Where several sequences run at once there is no such number, and the estimate of the preflight
 * stays. */
static double estimated_tok_per_s(const struct forebay_session *s)
{
    const struct forebay_model *m = s->model;
    const struct fb_preflight *p = m->preflight;
    struct fb_speed speed = p->speed;
    if (forebay_model_sequences(m) == 1 && speed.decode_tok_per_s > 0 && s->alone_tokens > 0) {
        double past = (double)s->alone_past / (double)s->alone_tokens;
        fb_preflight_estimate(
            p, fb_binding_weights(m->binding), m->plan, p->disk.bytes_per_s, past, &speed);
    }
    return speed.decode_tok_per_s;
}

/* Names of the devices in use, separated by commas, sums over them, and what their slots are. */
static void add_devices(const struct forebay_placement *p, struct forebay_stats *out)
{
    const char *form = "none";
    size_t used = 0, cap = sizeof out->device_name;
    for (int d = 0; d < p->n_devices; d++) {
        const struct forebay_device_use *use = &p->devices[d];
        if (use->bytes > 0 && used < cap) {
            used += (size_t)snprintf(
                out->device_name + used, cap - used, "%s%s", used ? "," : "", use->name);
        }
        out->device_layers += (uint64_t)use->n_layers;
        out->device_bytes += use->bytes;
        form = use->n_slots == 0 ? form : use->slots_shared ? "shared" : "copies";
    }
    if (used == 0) {
        snprintf(out->device_name, cap, "none");
    }
    snprintf(out->device_slots_form, sizeof out->device_slots_form, "%s", form);
}

void forebay_stats_get(const struct forebay_session *s, struct forebay_stats *out)
{
    const struct forebay_model *m = s->model;
    double disk = m->preflight->disk.bytes_per_s;
    struct fb_stream_stats stream = {0};
    if (m->binding) {
        fb_stream_stats(fb_binding_stream(m->binding), &stream);
    }
    struct fb_tier_stats tier = {0};
    struct fb_gpu_uploads uploads = {0};
    if (m->gpu_slots) {
        struct fb_tier *on_device = fb_gpu_slots_tier(m->gpu_slots);
        tier = on_device ? fb_tier_stats(on_device) : tier;
        uploads = fb_gpu_slots_uploads(m->gpu_slots);
    }
    uint64_t copied_ns = 0,
             copied_bytes = m->binding ? fb_binding_copied(m->binding, &copied_ns) : 0;
    *out = (struct forebay_stats){
        .decode_tok_per_s = rate(s->decode_tokens, s->decode_ns),
        .prompt_tok_per_s = rate(s->prompt_tokens, s->prompt_ns),
        .time_to_first_token_s = (double)s->first_token_ns * 1e-9,
        .prompt_tokens = s->prompt_tokens,
        .generated_tokens = s->generated_tokens,
        .read_bytes = stream.io.read_bytes - m->loaded.io.read_bytes,
        .decode_read_bytes = s->decode_read_bytes,
        .demand_bytes = stream.demand_bytes - m->loaded.demand_bytes,
        .prefetch_bytes = stream.prefetch_bytes - m->loaded.prefetch_bytes,
        .prefetch_used_bytes = stream.prefetch_used_bytes - m->loaded.prefetch_used_bytes,
        .expert_requests = stream.expert_requests,
        .expert_hits = stream.expert_hits,
        .prompt_s = (double)s->prompt_ns * 1e-9,
        .decode_s = (double)s->decode_ns * 1e-9,
        .stall_s = (double)(stream.stall_ns - m->loaded.stall_ns) * 1e-9,
        .prefetch_stall_s = (double)(stream.prefetch_stall_ns - m->loaded.prefetch_stall_ns) * 1e-9,
        .unpack_s = (double)(stream.unpack_ns - m->loaded.unpack_ns) * 1e-9,
        .disk_bytes_per_s = disk,
        .estimated_tok_per_s = estimated_tok_per_s(s),
        .estimated_prompt_tok_per_s = m->preflight->speed.prompt_tok_per_s,
        .load_s = m->load_s,
        .load_read_bytes = m->load_read_bytes,
        .resident_bytes = m->placement.resident_bytes,
        .device_slots = m->gpu_slots ? (uint64_t)fb_gpu_slots_total(m->gpu_slots) : 0,
        .device_requests = tier.requests,
        .device_hits = tier.hits,
        .device_copy_bytes = uploads.bytes + copied_bytes,
        .device_back_bytes = uploads.back_bytes,
        .device_copy_s = (double)(uploads.ns + copied_ns) * 1e-9,
        .governor_shrinks = stream.shrinks,
        .governor_grows = stream.grows,
        .other_cores = m->binding ? fb_binding_others(m->binding) : 0,
        .peak_rss_bytes = fb_memory_peak_rss(),
        .budget_bytes = m->placement.budget_bytes,
        .written_bytes = fb_os_written_bytes(),
    };
    add_devices(&m->placement, out);
    double own_s = m->binding ? (double)fb_binding_own_ns(m->binding) * 1e-9 : 0;
    double waited_s = out->stall_s + out->unpack_s, wall_s = out->prompt_s + out->decode_s;
    out->demand_stall_s = out->stall_s - out->prefetch_stall_s;
    out->scheduler_s = own_s > waited_s ? own_s - waited_s : 0;
    double ours_s = waited_s + out->scheduler_s;
    out->compute_s = wall_s > ours_s ? wall_s - ours_s : 0;
    if (out->expert_requests) {
        out->hit_rate = (double)out->expert_hits / (double)out->expert_requests;
    }
    if (disk > 0 && s->decode_ns > 0) {
        uint64_t cold = fb_catalog_bytes_per_token(m->preflight->catalog);
        out->disk_utilisation = (double)s->decode_read_bytes / ((double)s->decode_ns * 1e-9 * disk);
        out->roofline_ratio = out->decode_tok_per_s * (double)cold / disk;
    }
}
