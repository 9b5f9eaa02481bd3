/* plan_report.c - forebay_plan_* and forebay_profile: what would be, without loading a model. */
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/libs.h"
#include "engine/preflight.h"
#include "engine/machine.h"
#include "engine/speed.h"
#include "os/memory.h"

struct forebay_plan {
    struct forebay_model *model; /* looked at, never loaded */
    int n_layers;
    struct forebay_plan_layer *layers;
};

/* --- Speed --------------------------------------------------------------------------------- */

/* How far off estimates were, with the model's earlier runs to go by and without; and where not
 * even the processor was measured. */
#define RANGE_SEEN    0.15
#define RANGE_UNSEEN  0.35
#define RANGE_GUESSED 0.7
#define RANGE_PROMPT  0.25

static void convert(const struct forebay_model *m, const struct fb_plan *plan,
    const struct fb_speed *speed, double disk, struct forebay_speed *out)
{
    bool seen =
        m->history && fb_history_compute_s(m->history, m->options.threads, m->options.repack) > 0;
    bool measured = m->profile.n_rates > 0;
    double range = seen ? RANGE_SEEN : measured ? RANGE_UNSEEN : RANGE_GUESSED;
    uint64_t load = plan ? plan->resident_bytes : m->catalog->tensor_bytes;
    *out = (struct forebay_speed){
        .decode_tok_per_s = speed->decode_tok_per_s,
        .decode_low = speed->decode_tok_per_s * (1 - range),
        .decode_high = speed->decode_tok_per_s * (1 + range),
        .prompt_tok_per_s = speed->prompt_tok_per_s,
        .prompt_low = speed->prompt_tok_per_s * (1 - RANGE_PROMPT),
        .prompt_high = speed->prompt_tok_per_s * (1 + RANGE_PROMPT),
        .time_to_first_token_s =
            speed->prompt_tok_per_s > 0 ? m->options.batch / speed->prompt_tok_per_s : 0,
        .load_s = disk > 0 ? (double)load / disk : 0,
        .hit_rate = speed->hit_rate,
        .read_bytes = speed->read_bytes,
        .read_s = speed->read_s,
        .compute_s = speed->compute_s,
        .unpack_s = speed->unpack_s,
        .disk_bytes_per_s = disk,
        .limit = speed->limit,
        .seen = seen,
        .measured = measured,
    };
}

void forebay_model_speed(const struct forebay_model *m, struct forebay_speed *out)
{
    convert(m, m->plan, &m->speed, m->disk_bytes_per_s, out);
}

void forebay_plan_speed(const struct forebay_plan *plan, uint64_t more_bytes, double disk_factor,
    struct forebay_speed *out)
{
    struct forebay_model *m = plan->model;
    const struct fb_weights *ws = fb_binding_weights(m->binding);
    double disk = m->disk_bytes_per_s * disk_factor;
    struct fb_plan *other = NULL;
    struct fb_speed speed;
    if (m->plan && more_bytes > 0 &&
        fb_plan_make(ws, m->plan->budget_bytes + more_bytes, m->curves, &other, NULL)) {
        other = NULL;
    }
    fb_speed_estimate(m, other ? other : m->plan, disk, fb_speed_usual_past(m), &speed);
    convert(m, other ? other : m->plan, &speed, disk, out);
    fb_plan_free(other);
}

/* --- Layers -------------------------------------------------------------------------------- */

static struct forebay_plan_layer *layer_of(struct forebay_plan *plan, int layer)
{
    int i = layer >= 0 && layer < plan->n_layers - 1 ? layer : plan->n_layers - 1;
    return &plan->layers[i];
}

static void describe_weights(struct forebay_plan *plan, const struct fb_weights *ws)
{
    const struct forebay_model *m = plan->model;
    bool *ours = fb_xcalloc((size_t)m->catalog->n_tensors, sizeof *ours);
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        ours[w->tensor] = true;
        if (w->group < 0) {
            struct forebay_plan_layer *l = layer_of(plan, m->catalog->tensors[w->tensor].layer);
            bool kept = !m->plan || m->plan->resident[i];
            *(kept ? &l->kept_bytes : &l->streamed_bytes) += w->stride;
        }
    }
    for (int t = 0; t < m->catalog->n_tensors; t++) {
        if (!ours[t]) {
            layer_of(plan, m->catalog->tensors[t].layer)->kept_bytes +=
                m->catalog->tensors[t].bytes;
        }
    }
    free(ours);
}

static void describe_experts(struct forebay_plan *plan, const struct fb_weights *ws)
{
    const struct forebay_model *m = plan->model;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        struct forebay_plan_layer *l = layer_of(plan, group->layer);
        l->n_experts = group->n_expert;
        l->n_slots = !m->plan         ? group->n_expert
                     : m->plan->slots ? m->plan->slots[g]
                                      : m->plan->shared_slots / ws->n_groups;
        /* A share of the pool may be more than a layer of few experts has. */
        l->n_slots = l->n_slots < group->n_expert ? l->n_slots : group->n_expert;
        l->slot_bytes = (uint64_t)l->n_slots * group->slot_bytes;
        l->expert_bytes = (uint64_t)group->n_expert * group->slot_bytes;
        l->hit_rate =
            m->plan && !m->plan->slots ? m->speed.hit_rate : m->curves->groups[g].hit[l->n_slots];
    }
}

static void describe_layers(struct forebay_plan *plan)
{
    const struct fb_weights *ws = fb_binding_weights(plan->model->binding);
    plan->n_layers = plan->model->catalog->n_layer + 1;
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
    struct forebay_model *m;
    enum forebay_status status = fb_model_new(options, &m, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    m->options.plain = false;
    status = fb_preflight(m, path, err);
    if (status != FOREBAY_OK) {
        forebay_model_free(m);
        return status;
    }
    struct forebay_plan *plan = fb_xcalloc(1, sizeof *plan);
    plan->model = m;
    fb_preflight_placement(m);
    describe_layers(plan);
    *out = plan;
    return FOREBAY_OK;
}

void forebay_plan_free(struct forebay_plan *plan)
{
    if (plan) {
        forebay_model_free(plan->model);
        free(plan->layers);
        free(plan);
    }
}

void forebay_plan_placement(const struct forebay_plan *plan, struct forebay_placement *out)
{
    *out = plan->model->placement;
}

const struct forebay_plan_layer *forebay_plan_layers(const struct forebay_plan *plan, int *n_layers)
{
    *n_layers = plan->n_layers;
    return plan->layers;
}
