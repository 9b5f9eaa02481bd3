/*
 * placement.c - see placement.h. Each choice is estimated with the weights that it leaves to the
 * machine, planned in the memory that is left for them.
 */
#include "plan/placement.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"

/* Another choice than whole layers must be faster by this factor. Estimates were off by 15 to 35 %
 * without a device (engine/describe.c); choices share most of what they err in. */
#define CLEARLY 0.9

double fb_placement_seconds(const struct fb_speed *speed)
{
    if (speed->prompt_tok_per_s <= 0 || speed->decode_tok_per_s <= 0) {
        return INFINITY;
    }
    return FB_PLACEMENT_PROMPT / speed->prompt_tok_per_s +
           FB_PLACEMENT_ANSWER / speed->decode_tok_per_s;
}

/* The weights that stay with us when devices hold theirs; those in slots in the file's form. */
static struct fb_weights *weights_beside(
    const struct fb_weights *all, const struct fb_offload_plan *plan)
{
    const struct fb_catalog *c = all->catalog;
    struct fb_claim *claims = fb_xcalloc((size_t)all->n_weights + 1, sizeof *claims);
    int n = 0, end = c->n_layer - plan->n_whole, first = end - plan->n_slotted;
    for (int i = 0; i < all->n_weights; i++) {
        const struct fb_weight *w = &all->weights[i];
        const struct fb_tensor *t = &c->tensors[w->tensor];
        bool slotted = w->group >= 0 && t->layer >= first && t->layer < end;
        if (fb_offload_holder(plan, c, w->tensor) >= 0) {
            continue;
        }
        claims[n++] = slotted ? (struct fb_claim){.tensor = w->tensor,
                                    .unit_bytes = t->expert_bytes,
                                    .packed = plan->slots_shared}
                              : (struct fb_claim){.tensor = w->tensor,
                                    .unit_bytes = w->unit_bytes,
                                    .transform = w->transformed,
                                    .file = w->file,
                                    .offset = w->offset,
                                    .step = w->step};
    }
    struct fb_weights *weights = fb_weights_new(c, claims, n);
    free(claims);
    return weights;
}

/* Plans and estimates. `devices` NULL: nothing is on a device. */
static double seconds_of(const struct fb_placement_inputs *in, const struct fb_weights *weights,
    const struct fb_speed_devices *devices, uint64_t ram_bytes)
{
    struct fb_speed_inputs speed_inputs = *in->speed;
    struct fb_curves *curves = fb_curves_new(weights, NULL);
    struct fb_plan *plan = NULL;
    double seconds = INFINITY;
    if (fb_plan_make(weights, ram_bytes, 0, curves, &plan, NULL) == FOREBAY_OK) {
        struct fb_speed speed;
        speed_inputs.weights = weights;
        speed_inputs.plan = plan;
        speed_inputs.curves = curves;
        speed_inputs.devices = devices;
        fb_estimate(&speed_inputs, &speed);
        seconds = fb_placement_seconds(&speed);
    }
    fb_plan_free(plan);
    fb_curves_free(curves);
    return seconds;
}

/* Whether the rates of the slots' device are known, and each layer's slots hold what a token uses
 * of it. */
static bool slots_make_sense(const struct fb_placement_inputs *in, const struct fb_weights *weights,
    const struct fb_speed_devices *devices)
{
    const struct fb_catalog *c = weights->catalog;
    for (int g = 0; g < weights->n_groups; g++) {
        const struct fb_group *group = &weights->groups[g];
        bool here = group->layer >= devices->first_layer && group->layer < devices->end_layer;
        for (int p = 0; p < group->n_parts && here; p++) {
            const struct fb_tensor *t = &c->tensors[weights->weights[group->weight[p]].tensor];
            if (fb_estimate_device_rates(in->speed, devices->slotted, t).decode <= 0) {
                return false;
            }
        }
    }
    return devices->slots_shared || devices->slots.n >= (uint64_t)c->n_expert_used;
}

/* Seconds of the conversation with this plan; negative when a rate is not known, infinite when the
 * plan does not work. */
static double estimate(
    const struct fb_placement_inputs *in, const struct fb_offload_plan *plan, uint64_t ram_bytes)
{
    const struct fb_catalog *c = in->speed->weights->catalog;
    struct fb_speed_devices devices = {.n_layers = plan->n_layers,
        .end_layer = c->n_layer - plan->n_whole,
        .first_layer = c->n_layer - plan->n_whole - plan->n_slotted};
    if (in->prompt_rows > 0 && in->speed->batch >= (uint32_t)in->prompt_rows) {
        devices.prompts = in->names[0];
    }
    uint64_t unused;
    if (!fb_estimate_held(in->speed, plan, in->names, 1, &devices.decode_s, &unused) ||
        !fb_estimate_held(
            in->speed, plan, in->names, in->speed->batch, &devices.prompt_s, &unused)) {
        return -1;
    }
    struct fb_weights *weights = weights_beside(in->speed->weights, plan);
    bool works = true;
    if (plan->n_slotted > 0) {
        devices.slotted = in->names[in->slots_device];
        devices.slots_shared = plan->slots_shared;
    }
    if (plan->n_slotted > 0 && plan->slots_shared) {
        works = slots_make_sense(in, weights, &devices);
    } else if (plan->n_slotted > 0) {
        works = plan->slots_bytes >=
                fb_device_slots_least(weights, devices.first_layer, devices.end_layer);
        if (works) {
            devices.slots = fb_device_slots_make(
                weights, devices.first_layer, devices.end_layer, plan->slots_bytes);
            works = slots_make_sense(in, weights, &devices);
        }
    }
    double seconds = works ? seconds_of(in, weights, &devices, ram_bytes) : INFINITY;
    fb_weights_free(weights);
    return seconds;
}

/* Bytes of the experts of layers [first, end). */
static uint64_t expert_bytes(const struct fb_catalog *c, int first, int end)
{
    uint64_t bytes = 0;
    for (int i = 0; i < c->n_tensors; i++) {
        const struct fb_tensor *t = &c->tensors[i];
        bytes += fb_weights_is_expert(t) && t->layer >= first && t->layer < end ? t->bytes : 0;
    }
    return bytes;
}

/* The best number of whole layers beside slots. */
static void try_slots(
    const struct fb_placement_inputs *in, double *fastest, struct fb_placement *out)
{
    int n = in->speed->weights->catalog->n_layer;
    for (int whole = in->least_whole; whole <= in->whole->n_whole && whole < n; whole++) {
        struct fb_offload_plan plan = *in->whole;
        const struct fb_catalog *c = in->speed->weights->catalog;
        uint64_t held = expert_bytes(c, n - whole, n - in->least_whole), ram = in->ram_beside_bytes;
        plan.n_whole = whole;
        plan.n_slotted = n - whole;
        plan.slots_shared = in->slots_shared;
        plan.slots_bytes = in->slots_bytes;
        if (in->slots_shared) {
            ram += expert_bytes(c, n - in->whole->n_whole, n - whole);
        } else {
            plan.slots_bytes -= fb_min(in->slots_bytes, held);
        }
        double seconds = estimate(in, &plan, ram);
        if (seconds >= 0 && seconds < *fastest) {
            *fastest = seconds;
            out->slots = true;
            out->n_whole = whole;
            out->seconds = seconds;
        }
    }
}

void fb_placement_choose(const struct fb_placement_inputs *in, struct fb_placement *out)
{
    const struct fb_offload_plan *whole = in->whole;
    int n = in->speed->weights->catalog->n_layer;
    *out = (struct fb_placement){.use = whole->output, .n_whole = whole->n_whole};
    double seconds = whole->output ? estimate(in, whole, in->ram_beside_bytes) : -1;
    if (seconds < 0) {
        return;
    }
    out->known = true;
    out->seconds = out->whole_seconds = seconds;
    double fastest = seconds * CLEARLY;
    if (whole->n_layers == n && whole->n_whole < n && in->slots_bytes > 0) {
        try_slots(in, &fastest, out);
    }
    if (in->may_do_without) {
        double without = seconds_of(in, in->speed->weights, NULL, in->ram_bytes);
        if (without < fastest) {
            *out = (struct fb_placement){
                .known = true, .seconds = without, .whole_seconds = out->whole_seconds};
        }
    }
}
