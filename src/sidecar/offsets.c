/* offsets.c - see offsets.h. */
#include "sidecar/offsets.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"

static void add_expert_record(const struct fb_weights *ws, const struct fb_group *group,
    const struct fb_sidecar_form *forms, struct fb_sidecar_contents *out)
{
    uint64_t record = 0;
    for (int p = 0; p < group->n_parts; p++) {
        const struct fb_weight *w = &ws->weights[group->weight[p]];
        out->weights[out->n_weights + p] = (struct fb_sidecar_weight){
            .tensor = w->tensor,
            .n_units = group->n_expert,
            .unit_bytes = w->unit_bytes,
            .offset = out->data_bytes + record,
            .first_sum = out->n_units + (uint64_t)p,
            .sum_step = (uint64_t)group->n_parts,
            .form = forms[group->weight[p]],
        };
        record += fb_round_up(w->unit_bytes, FB_BLOCK_BYTES);
    }
    for (int p = 0; p < group->n_parts; p++) {
        out->weights[out->n_weights + p].step = record;
    }
    out->n_weights += group->n_parts;
    out->n_units += (uint64_t)group->n_parts * (uint64_t)group->n_expert;
    out->data_bytes += record * (uint64_t)group->n_expert;
}

static void list_units(struct fb_sidecar_contents *out)
{
    out->units = fb_xcalloc(out->n_units, sizeof *out->units);
    for (int i = 0; i < out->n_weights; i++) {
        const struct fb_sidecar_weight *w = &out->weights[i];
        for (int u = 0; u < w->n_units; u++) {
            out->units[w->first_sum + (uint64_t)u * w->sum_step] = (struct fb_sidecar_unit){i, u};
        }
    }
}

void fb_sidecar_lay_out(const struct fb_weights *ws, const struct fb_sidecar_form *forms,
    struct fb_sidecar_contents *out)
{
    *out = (struct fb_sidecar_contents){0};
    out->weights = fb_xcalloc((size_t)ws->n_weights, sizeof *out->weights);
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        if (w->group < 0 && forms[i].layout[0]) {
            out->weights[out->n_weights++] = (struct fb_sidecar_weight){
                .tensor = w->tensor,
                .n_units = 1,
                .unit_bytes = w->unit_bytes,
                .offset = out->data_bytes,
                .step = fb_round_up(w->unit_bytes, FB_BLOCK_BYTES),
                .first_sum = out->n_units++,
                .sum_step = 1,
                .form = forms[i],
            };
            out->data_bytes += fb_round_up(w->unit_bytes, FB_BLOCK_BYTES);
        } else if (w->group >= 0 && ws->groups[w->group].weight[0] == i) {
            add_expert_record(ws, &ws->groups[w->group], forms, out);
        }
    }
    list_units(out);
}

void fb_sidecar_contents_release(struct fb_sidecar_contents *contents)
{
    free(contents->weights);
    free(contents->units);
    *contents = (struct fb_sidecar_contents){0};
}
