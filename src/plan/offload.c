#include "plan/offload.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "model/weights.h"
#include "plan/ffns.h"

/* Bytes of one layer's tensors. */
struct layer_bytes {
    uint64_t dense;
    uint64_t experts; /* or the FFN, if it is placed apart */
};

/* Experts, and the biases and scales that belong to them. */
static bool is_expert(const struct fb_tensor *t)
{
    return t->n_expert > 1 || t->role == FB_ROLE_EXPERT_AUX;
}

/* What is placed after the rest of the layers. */
static bool is_later(const struct fb_catalog *catalog, const struct fb_tensor *t, bool ffns_apart)
{
    return ffns_apart ? fb_ffns_has(catalog, t) : is_expert(t);
}

static struct layer_bytes *bytes_by_layer(const struct fb_catalog *catalog, bool ffns_apart)
{
    struct layer_bytes *layers = fb_xcalloc((size_t)catalog->n_layer + 1, sizeof *layers);
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        if (t->layer >= 0 && t->layer < catalog->n_layer) {
            *(is_later(catalog, t, ffns_apart) ? &layers[t->layer].experts
                                               : &layers[t->layer].dense) += t->bytes;
        }
    }
    return layers;
}

/* Bytes of the tensors in no layer that the device holds. llama.cpp leaves the embeddings with the
 * CPU; in a model without an output matrix they serve as one, and the device gets a copy. */
static uint64_t output_bytes(const struct fb_catalog *catalog)
{
    uint64_t bytes = 0, token_embd = 0;
    bool has_matrix = false;
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        if (t->layer >= 0) {
            continue;
        }
        if (t->role == FB_ROLE_EMBEDDING) {
            token_embd = fb_max(token_embd, t->bytes);
        } else {
            bytes += t->bytes;
            has_matrix = has_matrix || (t->role == FB_ROLE_OUTPUT && t->matrix);
        }
    }
    return has_matrix ? bytes : bytes + token_embd;
}

/* What is known of the model. */
struct model_bytes {
    int n_layer;
    bool ffns_apart;
    struct layer_bytes *layers;
    uint64_t output, kv; /* KV cache of one layer */
};

static struct model_bytes bytes_of(
    const struct fb_catalog *catalog, uint64_t kv_bytes, bool ffns_apart)
{
    uint64_t n = (uint64_t)catalog->n_layer;
    return (struct model_bytes){.n_layer = catalog->n_layer,
        .ffns_apart = ffns_apart,
        .layers = bytes_by_layer(catalog, ffns_apart),
        .output = output_bytes(catalog),
        .kv = n > 0 ? (kv_bytes + n - 1) / n : 0};
}

/* The plan of one extent, filled from the end of the model: each device gets as many layers as it
 * has room for, which leaves most room for the others. */
static bool fill(const struct model_bytes *m, const struct fb_offload_rooms *rooms, int extent,
    struct fb_offload_plan *plan)
{
    int n = m->n_layer, d = 0;
    *plan = (struct fb_offload_plan){.output = true, .ffns_apart = m->ffns_apart};
    plan->n_layers = extent < n ? extent : n;
    plan->n_whole = extent - plan->n_layers;
    while (
        plan->n_layers == n && plan->n_whole < n && m->layers[n - 1 - plan->n_whole].experts == 0) {
        plan->n_whole++; /* a layer without experts is whole */
    }
    while (d < rooms->n && m->output > rooms->bytes[d]) {
        d++;
    }
    if (d == rooms->n) {
        return false;
    }
    plan->output_device = d;
    plan->weights_bytes = plan->bytes_on[d] = m->output;
    for (int l = n - 1; l >= n - plan->n_layers; l--) {
        uint64_t weights = m->layers[l].dense + (l >= n - plan->n_whole ? m->layers[l].experts : 0);
        while (weights + m->kv > rooms->bytes[d] - plan->bytes_on[d]) {
            if (++d == rooms->n) {
                return false;
            }
        }
        plan->layers_on[d]++;
        plan->bytes_on[d] += weights + m->kv;
        plan->weights_bytes += weights;
        plan->kv_bytes += m->kv;
    }
    return true;
}

struct fb_offload_plan fb_offload_make(const struct fb_catalog *catalog, uint64_t kv_bytes,
    bool ffns_apart, const struct fb_offload_rooms *rooms)
{
    struct model_bytes m = bytes_of(catalog, kv_bytes, ffns_apart);
    struct fb_offload_plan plan = {0};
    int extent = fb_offload_whole_extent(catalog);
    while (extent >= 0 && !fill(&m, rooms, extent, &plan)) {
        extent--;
    }
    free(m.layers);
    return extent >= 0 ? plan : (struct fb_offload_plan){0};
}

bool fb_offload_at(const struct fb_catalog *catalog, uint64_t kv_bytes, bool ffns_apart,
    const struct fb_offload_rooms *rooms, int extent, struct fb_offload_plan *out)
{
    struct model_bytes m = bytes_of(catalog, kv_bytes, ffns_apart);
    bool fits = fill(&m, rooms, extent, out);
    free(m.layers);
    return fits;
}

int fb_offload_extent(const struct fb_offload_plan *plan)
{
    return plan->output ? plan->n_layers + plan->n_whole : -1;
}

int fb_offload_whole_extent(const struct fb_catalog *catalog)
{
    return 2 * catalog->n_layer;
}

uint64_t fb_offload_bytes(const struct fb_offload_plan *plan)
{
    return plan->weights_bytes + plan->kv_bytes;
}

int fb_offload_gpu_layers(const struct fb_offload_plan *plan)
{
    return plan->output ? plan->n_layers + 1 : 0;
}

bool fb_offload_uses(const struct fb_offload_plan *plan, int device)
{
    return plan->output && (plan->layers_on[device] > 0 || plan->output_device == device);
}

int fb_offload_device_of(const struct fb_offload_plan *plan, int n_layer, int layer)
{
    int end = n_layer;
    for (int d = 0; d < FOREBAY_DEVICES && end > n_layer - plan->n_layers; d++) {
        end -= plan->layers_on[d];
        if (layer >= end) {
            return layer < n_layer ? d : -1;
        }
    }
    return -1;
}

int fb_offload_holder(
    const struct fb_offload_plan *plan, const struct fb_catalog *catalog, int tensor)
{
    const struct fb_tensor *t = &catalog->tensors[tensor];
    if (!plan->output || t->role == FB_ROLE_EMBEDDING) {
        return -1;
    }
    if (t->layer < 0) {
        return plan->output_device;
    }
    if (is_later(catalog, t, plan->ffns_apart) && t->layer < catalog->n_layer - plan->n_whole) {
        return -1;
    }
    return fb_offload_device_of(plan, catalog->n_layer, t->layer);
}
