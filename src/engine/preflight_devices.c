/* preflight_devices.c - which part of the model the devices get. */
#include <string.h>

#include "base/log.h"
#include "engine/preflight.h"
#include "gpu/gpu.h"
#include "plan/device_slots.h"

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

/* Whether the slots of each layer hold what a token uses of it: with fewer, nothing would ever hit,
 * and every expert would be copied for every token. */
static bool slots_suffice(const struct fb_preflight *p, int first, int end)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    uint64_t bytes = p->devices.plan.slots_bytes;
    return bytes >= fb_device_slots_least(ws, first, end) &&
           fb_device_slots_make(ws, first, end, bytes).n >= (uint64_t)p->catalog->n_expert_used;
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
    fb_debug("%s has no room for a token's experts in slots: it gets whole layers",
        ggml_backend_dev_name(fb_devices_of_slots(&p->devices, p->catalog)));
    fb_devices_set_plan(&p->devices, &before);
    return fb_preflight_measure(p, &p->needs, err);
}

enum forebay_status fb_preflight_measure_devices(struct fb_preflight *p, struct forebay_error *err)
{
    fb_devices_set_plan(&p->devices, &(struct fb_offload_plan){0});
    enum forebay_status status = fb_preflight_measure(p, &p->needs, err);
    if (status != FOREBAY_OK || p->devices.n == 0) {
        return status;
    }
    status = fb_devices_set_rooms(&p->devices, &p->options, err);
    if (status == FOREBAY_OK) {
        status = fb_devices_place(&p->devices, p->catalog, fb_preflight_measure, p, &p->needs, err);
    }
    if (status == FOREBAY_OK) { /* the last plan measured need not be the one that was chosen */
        status = fb_preflight_measure(p, &p->needs, err);
    }
    if (status == FOREBAY_OK && strcmp(p->options.device_experts, "slots") == 0) {
        status = place_in_slots(p, fb_devices_least_whole(&p->devices, p->catalog), err);
    }
    return status;
}

int fb_preflight_device_slots(const struct fb_preflight *p, const struct fb_group *group)
{
    int first, end;
    fb_devices_slotted(&p->devices, p->catalog, &first, &end);
    if (group->layer < first || group->layer >= end) {
        return 0;
    }
    struct fb_device_slots slots = fb_device_slots_make(
        fb_binding_weights(p->measuring), first, end, p->devices.plan.slots_bytes);
    return fb_device_slots_of(&slots, group);
}
