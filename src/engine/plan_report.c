/* plan_report.c - forebay_plan_*: where each layer's weights would be and how fast the model would
 * run. A plan is a preflight, and a table of its layers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "engine/describe.h"
#include "engine/preflight.h"

struct forebay_plan {
    struct fb_preflight *preflight;
    int n_layers;
    struct forebay_plan_layer *layers;
};

/* --- Layers -------------------------------------------------------------------------------- */

static struct forebay_plan_layer *layer_of(struct forebay_plan *plan, int layer)
{
    int i = layer >= 0 && layer < plan->n_layers - 1 ? layer : plan->n_layers - 1;
    return &plan->layers[i];
}

static void describe_weights(struct forebay_plan *plan, const struct fb_weights *ws)
{
    const struct fb_preflight *p = plan->preflight;
    const struct fb_catalog *catalog = p->catalog;
    bool *claimed = fb_xcalloc((size_t)catalog->n_tensors, sizeof *claimed);
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        claimed[w->tensor] = true;
        if (w->group < 0) {
            struct forebay_plan_layer *l = layer_of(plan, catalog->tensors[w->tensor].layer);
            bool resident = p->plan->resident[i];
            *(resident ? &l->resident_bytes : &l->streamed_bytes) += w->stride;
        }
    }
    for (int t = 0; t < catalog->n_tensors; t++) {
        struct forebay_plan_layer *l = layer_of(plan, catalog->tensors[t].layer);
        if (!claimed[t]) {
            bool there = fb_offload_holder(&p->devices.plan, catalog, t) >= 0;
            *(there ? &l->device_bytes : &l->resident_bytes) += catalog->tensors[t].bytes;
        }
    }
    free(claimed);
}

/* Of one expert, in the form that a device computes with. */
static uint64_t group_file_bytes(const struct fb_weights *ws, const struct fb_group *group)
{
    uint64_t bytes = 0;
    for (int p = 0; p < group->n_parts; p++) {
        bytes += ws->weights[group->weight[p]].file_bytes;
    }
    return bytes;
}

static void describe_experts(struct forebay_plan *plan, const struct fb_weights *ws)
{
    const struct fb_preflight *p = plan->preflight;
    const int *slots = p->plan->slots;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        struct forebay_plan_layer *l = layer_of(plan, group->layer);
        l->n_experts = group->n_expert;
        l->n_slots = slots ? slots[g] : p->plan->shared_slots / ws->n_groups;
        /* A fair share of a shared pool may exceed the experts of a small layer. */
        l->n_slots = l->n_slots < group->n_expert ? l->n_slots : group->n_expert;
        l->slot_bytes = (uint64_t)l->n_slots * group->slot_bytes;
        l->expert_bytes = (uint64_t)group->n_expert * group->slot_bytes;
        l->hit_rate = slots ? p->curves->groups[g].hit[l->n_slots] : p->speed.hit_rate;
        l->n_device_slots = fb_preflight_device_slots(p, group);
        l->device_slot_bytes = (uint64_t)l->n_device_slots * group_file_bytes(ws, group);
    }
}

static void describe_layers(struct forebay_plan *plan)
{
    const struct fb_weights *ws = fb_binding_weights(plan->preflight->measuring);
    plan->n_layers = plan->preflight->catalog->n_layer + 1;
    plan->layers = fb_xcalloc((size_t)plan->n_layers, sizeof *plan->layers);
    for (int i = 0; i < plan->n_layers; i++) {
        plan->layers[i].layer = i < plan->n_layers - 1 ? i : -1;
        plan->layers[i].hit_rate = 1;
    }
    describe_weights(plan, ws);
    describe_experts(plan, ws);
}

/* --- Tiers --------------------------------------------------------------------------------- */

/* What devices hold for good. Returns the requests for experts that they serve. */
static double add_held(const struct forebay_plan *plan, struct forebay_tier *devices)
{
    const struct fb_preflight *p = plan->preflight;
    const struct fb_catalog *c = p->catalog;
    bool *counted = fb_xcalloc((size_t)c->n_layer + 1, sizeof *counted);
    double requests = 0;
    for (int t = 0; t < c->n_tensors; t++) {
        const struct fb_tensor *tensor = &c->tensors[t];
        int d = fb_offload_holder(&p->devices.plan, c, t);
        if (d < 0) {
            continue;
        }
        bool expert = fb_weights_is_expert(tensor);
        *(expert ? &devices[d].expert_bytes : &devices[d].dense_bytes) += tensor->bytes;
        if (expert && !counted[tensor->layer]) {
            counted[tensor->layer] = true;
            devices[d].n_slots += tensor->n_expert;
            devices[d].requests += c->n_expert_used;
            requests += c->n_expert_used;
        }
    }
    free(counted);
    return requests;
}

/* What passes through slots. Returns the requests. */
static double add_slots(const struct forebay_plan *plan, struct forebay_tier *devices,
    struct forebay_tier *ram, struct forebay_tier *disk)
{
    const struct fb_preflight *p = plan->preflight;
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    double requests = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        const struct fb_curve *curve = &p->curves->groups[g];
        const struct forebay_plan_layer *l = &plan->layers[group->layer];
        int d = fb_offload_device_of(&p->devices.plan, p->catalog->n_layer, group->layer);
        int in_ram = p->plan->slots ? p->plan->slots[g] : 0; /* a shared pool: see estimate.c */
        double k = p->catalog->n_expert_used, above = 0;
        double both = p->plan->slots ? curve->hit[in_ram] : p->speed.hit_rate;
        if (l->n_device_slots > 0 && d >= 0) {
            above = curve->hit[l->n_device_slots];
            both = fmax(both, fb_curve_both(curve, l->n_device_slots, in_ram));
            devices[d].expert_bytes += l->device_slot_bytes;
            devices[d].n_slots += l->n_device_slots;
            devices[d].requests += k * above;
        }
        ram->requests += k * (both - above);
        disk->requests += k * (1 - both);
        requests += k;
    }
    return requests;
}

int forebay_plan_tiers(const struct forebay_plan *plan, struct forebay_tier *tiers)
{
    const struct fb_preflight *p = plan->preflight;
    struct forebay_tier devices[FOREBAY_DEVICES] = {0};
    struct forebay_tier ram = {.name = "RAM", .kv_bytes = p->needs.kv_bytes};
    struct forebay_tier disk = {.name = "disk"};
    double requests = add_held(plan, devices) + add_slots(plan, devices, &ram, &disk);
    int n = 0;
    for (int l = 0; l < plan->n_layers; l++) {
        const struct forebay_plan_layer *layer = &plan->layers[l];
        ram.dense_bytes += layer->resident_bytes;
        ram.expert_bytes += layer->slot_bytes;
        ram.n_slots += layer->n_slots;
        disk.dense_bytes += layer->streamed_bytes;
        disk.n_slots += layer->n_experts - layer->n_slots;
        disk.expert_bytes += layer->expert_bytes - layer->slot_bytes;
    }
    for (int d = 0; d < p->devices.n; d++) {
        if (fb_offload_uses(&p->devices.plan, d)) {
            devices[d].kv_bytes = fb_devices_kv_bytes_on(&p->devices, &p->needs, d);
            snprintf(devices[d].name, sizeof devices[d].name, "%s",
                ggml_backend_dev_name(p->devices.all[d].dev));
            tiers[n++] = devices[d];
        }
    }
    tiers[n++] = ram;
    tiers[n++] = disk;
    for (int i = 0; i < n; i++) {
        tiers[i].requests = requests > 0 ? tiers[i].requests / requests : 0;
    }
    return n;
}

/* --- Plans --------------------------------------------------------------------------------- */

enum forebay_status forebay_plan_new(const char *path, const struct forebay_model_options *options,
    struct forebay_plan **out, struct forebay_error *err)
{
    struct forebay_model_options streamed = *options;
    struct fb_preflight *preflight;
    streamed.plain = false;
    enum forebay_status status = fb_preflight_new(path, &streamed, &preflight, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    struct forebay_plan *plan = fb_xcalloc(1, sizeof *plan);
    plan->preflight = preflight;
    fb_preflight_probe_disk(preflight); /* for the time of loading, if nothing is read later */
    describe_layers(plan);
    *out = plan;
    return FOREBAY_OK;
}

void forebay_plan_free(struct forebay_plan *plan)
{
    if (plan) {
        fb_preflight_free(plan->preflight);
        free(plan->layers);
        free(plan);
    }
}

void forebay_plan_placement(const struct forebay_plan *plan, struct forebay_placement *out)
{
    const struct fb_preflight *p = plan->preflight;
    *out = fb_describe_placement(p, p->measuring, p->plan, p->context_bytes);
}

void forebay_plan_speed(const struct forebay_plan *plan, uint64_t more_bytes, double disk_factor,
    struct forebay_speed *out)
{
    const struct fb_preflight *p = plan->preflight;
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    double disk = p->disk.bytes_per_s * disk_factor;
    const struct fb_plan *used = p->plan;
    struct fb_plan *larger = NULL;
    struct fb_speed speed;
    if (more_bytes > 0 && fb_plan_make(ws, p->plan->budget_bytes + more_bytes, p->plan->batch_bytes,
                              p->curves, &larger, NULL) == FOREBAY_OK) {
        used = larger;
    }
    fb_preflight_estimate(p, ws, used, disk, fb_preflight_usual_past(p), &speed);
    *out = fb_describe_speed(p, &speed, disk);
    fb_plan_free(larger);
}

const struct forebay_plan_layer *forebay_plan_layers(const struct forebay_plan *plan, int *n_layers)
{
    *n_layers = plan->n_layers;
    return plan->layers;
}
