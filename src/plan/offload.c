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

static struct layer_bytes *bytes_by_layer(const struct fb_catalog *catalog, bool ffns_apart)
{
    struct layer_bytes *layers = fb_xcalloc((size_t)catalog->n_layer + 1, sizeof *layers);
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        if (t->layer >= 0 && t->layer < catalog->n_layer) {
            bool later = ffns_apart ? fb_ffns_has(catalog, t) : is_expert(t);
            *(later ? &layers[t->layer].experts : &layers[t->layer].dense) += t->bytes;
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

/* Subtracts the bytes from *room if they fit. */
static bool deduct(uint64_t bytes, uint64_t *room)
{
    if (bytes > *room) {
        return false;
    }
    *room -= bytes;
    return true;
}

static struct fb_offload_plan make(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t room_bytes, uint64_t reserve_bytes, bool ffns_apart)
{
    struct fb_offload_plan plan = {.ffns_apart = ffns_apart};
    int n = catalog->n_layer;
    uint64_t room = room_bytes - fb_min(room_bytes, reserve_bytes);
    uint64_t output = output_bytes(catalog);
    uint64_t kv = n > 0 ? (kv_bytes + (uint64_t)n - 1) / (uint64_t)n : 0;
    if (reserve_bytes > room_bytes || !deduct(output, &room)) {
        return plan;
    }
    struct layer_bytes *layers = bytes_by_layer(catalog, ffns_apart);
    plan.output = true;
    plan.weights_bytes = output;
    for (int l = n - 1; l >= 0 && deduct(layers[l].dense + kv, &room); l--) {
        plan.n_layers++;
        plan.weights_bytes += layers[l].dense;
        plan.kv_bytes += kv;
    }
    if (plan.n_layers == n) {
        for (int l = n - 1; l >= 0 && deduct(layers[l].experts, &room); l--) {
            plan.n_whole++;
            plan.weights_bytes += layers[l].experts;
        }
    }
    free(layers);
    return plan;
}

struct fb_offload_plan fb_offload_make(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t room_bytes, uint64_t reserve_bytes)
{
    return make(catalog, kv_bytes, room_bytes, reserve_bytes, false);
}

struct fb_offload_plan fb_offload_make_apart(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t room_bytes, uint64_t reserve_bytes)
{
    return make(catalog, kv_bytes, room_bytes, reserve_bytes, true);
}

uint64_t fb_offload_bytes(const struct fb_offload_plan *plan)
{
    return plan->weights_bytes + plan->kv_bytes;
}

int fb_offload_gpu_layers(const struct fb_offload_plan *plan)
{
    return plan->output ? plan->n_layers + 1 : 0;
}
