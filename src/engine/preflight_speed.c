/* preflight_speed.c - what a preflight says of the speed: the inputs of plan/estimate.h. */
#include "base/units.h"
#include "engine/machine.h"
#include "engine/model_options.h"
#include "engine/preflight.h"
#include "model/meta.h"
#include "os/memory.h"
#include "plan/device_slots.h"

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

struct fb_speed_inputs fb_preflight_speed_inputs(
    const struct fb_preflight *p, const struct fb_weights *ws, double past)
{
    const struct forebay_model_options *o = &p->options;
    uint64_t touched = fb_catalog_bytes_per_token(p->catalog), ours = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        ours += w->file_bytes * (w->group < 0 ? 1 : (uint64_t)p->catalog->n_expert_used);
    }
    return (struct fb_speed_inputs){
        .weights = ws,
        .profile = &p->profile,
        .type_name = type_name,
        .threads = o->threads,
        .repack = o->repack,
        .disk_bytes_per_s = 1,
        .other_bytes = touched > ours ? touched - ours : 0,
        .context_bytes = p->needs.kv_bytes + p->needs.compute_bytes,
        .unclaimed_bytes = fb_preflight_unclaimed_bytes(p, ws),
        .attention_s = fb_preflight_attention_s(p, past, false),
        .prompt_attention_s = fb_preflight_attention_s(p, o->batch / 2.0, true),
        .batch = o->batch,
    };
}

/* What devices add to the estimate of the plan. False when that is not known. */
static bool add_devices(const struct fb_preflight *p, const struct fb_weights *ws,
    const struct fb_device_names *names, struct fb_speed_devices *devices,
    struct fb_speed_inputs *in)
{
    const struct fb_offload_plan *plan = &p->devices.plan;
    uint64_t bytes, again;
    *devices = (struct fb_speed_devices){.n_layers = plan->n_layers};
    fb_devices_slotted(&p->devices, p->catalog, &devices->first_layer, &devices->end_layer);
    if (plan->n_slotted > 0) {
        int d = fb_offload_device_of(plan, p->catalog->n_layer, devices->first_layer);
        devices->slotted = d < 0 ? NULL : names->of[d];
        devices->slots_shared = plan->slots_shared;
        devices->slots =
            fb_device_slots_make(ws, devices->first_layer, devices->end_layer, plan->slots_bytes);
    }
    int rows = fb_devices_prompt_rows(&p->devices);
    devices->prompts = rows > 0 && in->batch >= (uint32_t)rows ? names->of[0] : NULL;
    in->devices = devices;
    bool known = fb_estimate_held(in, plan, names->of, 1, &devices->decode_s, &bytes) &&
                 fb_estimate_held(in, plan, names->of, in->batch, &devices->prompt_s, &again);
    in->other_bytes -= fb_min(in->other_bytes, bytes);
    for (int g = 0; g < ws->n_groups && known && devices->slotted; g++) {
        const struct fb_tensor *t =
            &p->catalog->tensors[ws->weights[ws->groups[g].weight[0]].tensor];
        known = ws->groups[g].layer < devices->first_layer ||
                fb_estimate_device_rates(in, devices->slotted, t).decode > 0;
    }
    return known;
}

void fb_preflight_estimate(const struct fb_preflight *p, const struct fb_weights *ws,
    const struct fb_plan *plan, double disk_bytes_per_s, double past, struct fb_speed *out)
{
    const struct forebay_model_options *o = &p->options;
    struct fb_speed_inputs in = fb_preflight_speed_inputs(p, ws, past);
    struct fb_device_names names;
    struct fb_speed_devices devices;
    in.plan = plan;
    in.curves = p->curves;
    in.disk_bytes_per_s = disk_bytes_per_s > 0 ? disk_bytes_per_s : 1;
    in.disk_burst = p->disk.burst;
    in.disk_latency_s = p->disk.latency_s;
    in.lookahead = o->lookahead > 0 ? fb_history_lookahead(p->history) : 0;
    in.read_cpu_s = p->disk.cpu_s;
    in.compute_s = fb_history_compute_s(p->history, o->threads, o->repack);
    in.prompt_compute_s = fb_history_prompt_s(p->history, o->threads, o->repack);
    if (fb_devices_used(&p->devices)) {
        fb_preflight_device_names(p, &names);
        if (!add_devices(p, ws, &names, &devices, &in)) {
            *out = (struct fb_speed){0};
            return;
        }
    }
    fb_estimate(&in, out);
}

void fb_preflight_device_names(const struct fb_preflight *p, struct fb_device_names *names)
{
    for (int d = 0; d < FOREBAY_DEVICES; d++) {
        names->text[d][0] = 0;
        names->of[d] = names->text[d];
        if (d < p->devices.n) {
            fb_machine_device_name(p->devices.all[d].dev, names->text[d]);
        }
    }
}

/* --- Rates --------------------------------------------------------------------------------- */

/* Kinds of weights whose rates are measured; models have fewer. */
#define MOST_KINDS 48
/* Tokens of the batch that a device is measured with; few where they are computed slowly. Mesa's
 * software driver (22.3) often crashes after more than 8. */
#define DEVICE_BATCH   256
#define SOFTWARE_BATCH 8

static struct fb_machine_request request(
    const struct fb_preflight *p, const struct fb_weights *ws, struct fb_machine_kind *kinds)
{
    uint64_t taken = fb_memory_rss() + FB_PROCESS_SLACK_BYTES;
    return (struct fb_machine_request){
        .kinds = kinds,
        .n_kinds = fb_machine_kinds_of(ws, kinds, MOST_KINDS),
        .repack = p->options.repack,
        .threads = p->options.threads,
        .room_bytes = p->options.mem_bytes > taken ? p->options.mem_bytes - taken : 0,
        .progress = p->options.progress,
        .progress_user = p->options.progress_user,
    };
}

enum forebay_status fb_preflight_rates(
    struct fb_preflight *p, const struct fb_weights *ws, struct forebay_error *err)
{
    struct fb_machine_kind kinds[MOST_KINDS];
    struct fb_machine_request rq = request(p, ws, kinds);
    return fb_machine_profile(&rq, &p->profile, err);
}

enum forebay_status fb_preflight_device_rates(
    struct fb_preflight *p, const struct fb_weights *ws, struct forebay_error *err)
{
    struct fb_machine_kind kinds[MOST_KINDS];
    struct fb_machine_request rq = request(p, ws, kinds);
    rq.n_kinds = fb_machine_add_types(p->catalog, kinds, rq.n_kinds, MOST_KINDS);
    enum forebay_status status = FOREBAY_OK;
    for (int d = 0; d < p->devices.n && status == FOREBAY_OK; d++) {
        if (fb_offload_uses(&p->devices.plan, d)) {
            rq.room_bytes = p->devices.rooms.bytes[d];
            rq.device_batch = p->devices.all[d].software ? SOFTWARE_BATCH : DEVICE_BATCH;
            status = fb_machine_measure_device(&rq, p->devices.all[d].dev, &p->profile, err);
        }
    }
    return status;
}
