/* preflight_devices.c - which part of the model the devices get. */
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "engine/machine.h"
#include "engine/model_options.h"
#include "engine/preflight.h"
#include "gpu/gpu.h"
#include "plan/device_slots.h"
#include "plan/placement.h"

/* Whether all experts of layers [first, end) were claimed, and the device computes with them. */
static bool can_be_slotted(const struct fb_preflight *p, int first, int end)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    ggml_backend_dev_t device = fb_devices_of_slots(&p->devices, p->catalog);
    int n = 0;
    for (int i = 0; i < p->catalog->n_tensors; i++) {
        const struct fb_tensor *t = &p->catalog->tensors[i];
        n += t->layer >= first && t->layer < end && strstr(t->name, "exps.weight") != NULL;
    }
    for (int w = 0; w < ws->n_weights; w++) {
        const struct fb_tensor *t = &p->catalog->tensors[ws->weights[w].tensor];
        if (ws->weights[w].group >= 0 && t->layer >= first && t->layer < end) {
            n -= strstr(t->name, "exps.weight") != NULL;
            if (!fb_gpu_computes(device, ws, w)) {
                return false;
            }
        }
    }
    return n == 0;
}

/* Whether there is memory for a slot of each group, beside a transit, or for a transit alone: slots
 * of the stream follow from the budget. */
static bool slots_suffice(const struct fb_preflight *p, int first, int end)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    uint64_t bytes = p->devices.plan.slots_bytes;
    return bytes >= (p->devices.plan.slots_shared ? fb_device_slots_least_transit(ws, first, end)
                                                  : fb_device_slots_least(ws, first, end));
}

/* Has a device compute the experts of all layers but the last n_whole, from slots, if it can; else
 * the plan stays. */
static enum forebay_status place_in_slots(
    struct fb_preflight *p, int n_whole, struct forebay_error *err)
{
    struct fb_offload_plan before = p->devices.plan;
    int first, end;
    if (!fb_devices_use_slots(
            &p->devices, p->catalog, n_whole, fb_preflight_measure, p, &p->needs)) {
        return fb_preflight_measure(p, &p->needs, err);
    }
    fb_devices_slotted(&p->devices, p->catalog, &first, &end);
    if (can_be_slotted(p, first, end) && slots_suffice(p, first, end)) {
        return FOREBAY_OK;
    }
    fb_debug("%s has no room for experts in slots: it gets whole layers",
        ggml_backend_dev_name(fb_devices_of_slots(&p->devices, p->catalog)));
    fb_devices_set_plan(&p->devices, &before);
    return fb_preflight_measure(p, &p->needs, err);
}

/* Memory for slots if as few layers as possible are whole; 0: there cannot be slots. The plan
 * stays, but is not the one that was measured last. */
static uint64_t most_slots_bytes(struct fb_preflight *p, int n_whole)
{
    struct fb_offload_plan before = p->devices.plan;
    struct fb_needs needs = p->needs;
    uint64_t bytes = 0;
    int first, end;
    if (fb_devices_use_slots(&p->devices, p->catalog, n_whole, fb_preflight_measure, p, &needs)) {
        fb_devices_slotted(&p->devices, p->catalog, &first, &end);
        bool can = can_be_slotted(p, first, end) && slots_suffice(p, first, end);
        bytes = can ? p->devices.plan.slots_bytes : 0;
    }
    fb_devices_set_plan(&p->devices, &before);
    return bytes;
}

/* From the stored profile: placements must not change with each run's measurement. */
static void add_disk(struct fb_preflight *p, struct fb_speed_inputs *in)
{
    const struct fb_profile_disk *disk = fb_machine_usual_disk(
        &p->profile, p->catalog->files, p->catalog->n_files, p->options.io_method);
    if (disk) {
        in->disk_bytes_per_s = disk->bytes_per_s;
        in->disk_latency_s = disk->latency_s;
    }
    if (p->options.disk_bytes_per_s > 0) {
        in->disk_bytes_per_s = (double)p->options.disk_bytes_per_s;
    }
}

/* Rounded down, so that placements do not follow every change of the free memory. */
static uint64_t coarse(uint64_t bytes)
{
    uint64_t step = 1;
    while (step <= bytes / 16) {
        step *= 2;
    }
    return fb_round_down(bytes, step);
}

/* Which choice is fastest: plan/placement.h. `all`: the weights as without devices, for which RAM
 * has ram_bytes. The plan is that of whole layers, before and afterwards. */
static enum forebay_status choose(struct fb_preflight *p, const struct fb_weights *all,
    uint64_t ram_bytes, struct fb_placement *out, struct forebay_error *err)
{
    struct fb_device_names names;
    int n = p->catalog->n_layer;
    struct fb_placement_inputs in = {.whole = &p->devices.plan,
        .names = names.of,
        .ram_bytes = coarse(ram_bytes),
        .ram_beside_bytes = coarse(fb_preflight_weights_room(p)),
        .least_whole = fb_devices_least_whole(&p->devices, p->catalog),
        .slots_device = fb_offload_device_of(&p->devices.plan, n, 0),
        .slots_shared = p->devices.shares_slots,
        .prompt_rows = fb_devices_prompt_rows(&p->devices),
        .may_do_without = strcmp(p->options.device, "auto") == 0};
    enum forebay_status status = fb_preflight_rates(p, all, err);
    if (status == FOREBAY_OK) {
        status = fb_preflight_device_rates(p, all, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    struct fb_speed_inputs speed = fb_preflight_speed_inputs(p, all, fb_preflight_usual_past(p));
    add_disk(p, &speed);
    fb_preflight_device_names(p, &names);
    in.speed = &speed;
    in.slots_bytes = most_slots_bytes(p, in.least_whole);
    fb_placement_choose(&in, out);
    if (out->known) {
        fb_debug("a conversation takes %.3g s with whole layers on devices, %.3g s %s",
            out->whole_seconds, out->seconds,
            !out->use    ? "without"
            : out->slots ? "with slots"
                         : "as chosen");
    }
    return FOREBAY_OK;
}

/* Changes the plan of whole layers to the fastest one. */
static enum forebay_status place_by_speed(struct fb_preflight *p, const struct fb_weights *all,
    uint64_t ram_bytes, struct forebay_error *err)
{
    struct fb_placement placement;
    struct fb_offload_plan none = {0};
    bool slots_possible = p->catalog->n_expert > 0 &&
                          p->devices.plan.n_layers == p->catalog->n_layer &&
                          p->devices.plan.n_whole < p->catalog->n_layer;
    if (!fb_machine_remembers() || !fb_devices_used(&p->devices) ||
        (!slots_possible && strcmp(p->options.device, "auto") != 0)) {
        return FOREBAY_OK;
    }
    enum forebay_status status = choose(p, all, ram_bytes, &placement, err);
    if (status == FOREBAY_OK && placement.slots) {
        return place_in_slots(p, placement.n_whole, err);
    }
    if (status == FOREBAY_OK && !placement.use) {
        fb_devices_set_plan(&p->devices, &none);
    }
    return status == FOREBAY_OK ? fb_preflight_measure(p, &p->needs, err) : status;
}

enum forebay_status fb_preflight_measure_devices(struct fb_preflight *p, struct forebay_error *err)
{
    fb_devices_set_plan(&p->devices, &(struct fb_offload_plan){0});
    enum forebay_status status = fb_preflight_measure(p, &p->needs, err);
    if (status != FOREBAY_OK || p->devices.n == 0) {
        return status;
    }
    struct fb_weights *all = fb_weights_copy(fb_binding_weights(p->measuring));
    uint64_t ram_bytes = fb_preflight_weights_room(p);
    int n_whole;
    p->devices.prompt_rows = p->devices.n == 1 && p->catalog->n_expert == 0
                                 ? fb_gpu_prompt_rows(p->devices.all[0].dev)
                                 : 0;
    status = fb_devices_set_rooms(&p->devices, &p->options, err);
    if (status == FOREBAY_OK) {
        status = fb_devices_place(&p->devices, p->catalog, fb_preflight_measure, p, &p->needs, err);
    }
    if (status == FOREBAY_OK) { /* the last plan measured need not be the one that was chosen */
        status = fb_preflight_measure(p, &p->needs, err);
    }
    if (status == FOREBAY_OK && fb_options_slots(&p->options, &n_whole)) {
        int least = fb_devices_least_whole(&p->devices, p->catalog);
        status = place_in_slots(p, n_whole > least ? n_whole : least, err);
    } else if (status == FOREBAY_OK && strcmp(p->options.device_experts, "auto") == 0) {
        status = place_by_speed(p, all, ram_bytes, err);
    }
    fb_weights_free(all);
    return status;
}

int fb_preflight_device_slots(const struct fb_preflight *p, const struct fb_group *group)
{
    int first, end;
    fb_devices_slotted(&p->devices, p->catalog, &first, &end);
    if (group->layer < first || group->layer >= end || p->devices.plan.slots_shared) {
        return 0;
    }
    struct fb_device_slots slots = fb_device_slots_make(
        fb_binding_weights(p->measuring), first, end, p->devices.plan.slots_bytes);
    return fb_device_slots_of(&slots, group);
}
