/* plan_report.c - forebay_plan_*: where each layer's weights would be and how fast the model would
 * run. A plan is a preflight, and a table of its layers. */
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
    const struct fb_catalog *catalog = plan->preflight->catalog;
    bool *claimed = fb_xcalloc((size_t)catalog->n_tensors, sizeof *claimed);
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        claimed[w->tensor] = true;
        if (w->group < 0) {
            struct forebay_plan_layer *l = layer_of(plan, catalog->tensors[w->tensor].layer);
            bool resident = plan->preflight->plan->resident[i];
            *(resident ? &l->resident_bytes : &l->streamed_bytes) += w->stride;
        }
    }
    for (int t = 0; t < catalog->n_tensors; t++) {
        if (!claimed[t]) {
            layer_of(plan, catalog->tensors[t].layer)->resident_bytes += catalog->tensors[t].bytes;
        }
    }
    free(claimed);
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
