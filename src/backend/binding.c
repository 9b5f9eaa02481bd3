/*
 * binding.c - which weights are ours, and in which form they are held.
 *
 * llama.cpp asks our device about every weight with a trial node of the op that will use it. We
 * claim matrices (named .weight) used by MUL_MAT or MUL_MAT_ID, in the form that the CPU backend
 * would have chosen for them: the same question, put to its own extra buffer types. Everything else
 * (norms, biases, scales, embedding tables, convolutions) stays with llama.cpp, fully resident.
 */
#include "backend/binding.h"

#include <stdlib.h>
#include <string.h>

#include "backend/device_state.h"
#include "base/error.h"
#include "base/log.h"

/* --- Claiming ------------------------------------------------------------------------------ */

static bool is_claimable(
    const struct fb_tensor *info, const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    if (!info->matrix || info->bytes < FB_CLAIM_MIN_BYTES || info->role == FB_ROLE_EMBEDDING) {
        return false; /* an embedding used as output is shared with a use that is not ours */
    }
    if (op->src[0] != weight || weight->type != (enum ggml_type)info->type ||
        memcmp(weight->ne, info->ne, sizeof weight->ne) != 0) {
        return false; /* not used as a matrix, or of another model with the same names */
    }
    bool expert = fb_weights_is_expert(info);
    if (op->op == GGML_OP_MUL_MAT_ID) {
        return expert ? weight->ne[2] == info->n_expert && weight->ne[3] == 1 : true;
    }
    return op->op == GGML_OP_MUL_MAT && !expert;
}

static bool is_on_gpu(const struct fb_binding *b, int layer)
{
    return layer >= b->gpu_first_layer && layer < b->gpu_end_layer;
}

static bool is_given(const struct fb_binding *b, const struct fb_tensor *info)
{
    return fb_weights_is_expert(info) && is_on_gpu(b, info->layer);
}

bool fb_binding_offer(
    struct fb_binding *b, const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    int tensor = fb_catalog_find(b->catalog, weight->name);
    if (tensor < 0 || b->weights) {
        return false;
    }
    const struct fb_tensor *info = &b->catalog->tensors[tensor];
    struct fb_tensor_claim *claim = &b->claims[tensor];
    if (!is_claimable(info, op, weight)) {
        return false;
    }
    if (claim->claimed) {
        return true;
    }
    bool repack = b->repack && !is_given(b, info); /* a GPU computes with the file's layout */
    if (!fb_form_choose(&claim->form, op, weight, repack, fb_weights_is_expert(info))) {
        fb_debug("%s stays with llama.cpp: %s cannot hold single units", info->name,
            ggml_backend_buft_name(claim->form.layout.buft));
        return false;
    }
    claim->claimed = true;
    return true;
}

void fb_binding_claim_for_gpu(struct fb_binding *b, const struct ggml_tensor *weight)
{
    int index = fb_catalog_find(b->catalog, weight->name);
    FB_ASSERT(index >= 0 && is_given(b, &b->catalog->tensors[index]));
    struct fb_tensor_claim *claim = &b->claims[index];
    claim->claimed = fb_form_choose(&claim->form, NULL, weight, false, true);
}

void fb_binding_adopt(struct fb_binding *b, struct ggml_tensor *tensor, bool hide)
{
    int index = fb_catalog_find(b->catalog, tensor->name);
    if (index < 0 || !b->claims[index].claimed || b->claims[index].tensor) {
        return;
    }
    struct fb_tensor_claim *claim = &b->claims[index];
    claim->tensor = tensor;
    claim->bytes = ggml_nbytes(tensor);
    memcpy(claim->ne, tensor->ne, sizeof claim->ne);
    if (hide) {
        tensor->ne[0] = 0;
    }
    tensor->extra = claim;
}

/* Units are verified where a sidecar's are read in place: packed ones of whole blocks. */
static void place_claim(
    struct fb_binding *b, const struct fb_tensor_claim *claim, struct fb_claim *out)
{
    out->packed = b->shares_slots && is_given(b, &b->catalog->tensors[out->tensor]);
    if (!out->packed || out->unit_bytes % FB_BLOCK_BYTES == 0) {
        fb_records_place(&b->records, &claim->form, out);
    }
}

/* The weights of all claims with a tensor of llama.cpp's; when it only measured, of all claims. */
static struct fb_weights *weights_of_claims(struct fb_binding *b)
{
    struct fb_claim *list = fb_xcalloc((size_t)b->catalog->n_tensors, sizeof *list);
    int n = 0;
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        struct fb_tensor_claim *claim = &b->claims[i];
        if (claim->tensor || (b->measuring && claim->claimed)) {
            const struct fb_layout *layout = &claim->form.layout;
            claim->weight = n; /* catalogue order: the index fb_weights_new gives it */
            list[n] = (struct fb_claim){
                .tensor = i, .unit_bytes = layout->unit_bytes, .transform = layout->buft != NULL};
            place_claim(b, claim, &list[n++]);
        }
    }
    struct fb_weights *weights = fb_weights_new(b->catalog, list, n);
    free(list);
    return weights;
}

void fb_binding_close(struct fb_binding *b)
{
    if (b->weights) {
        return;
    }
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        struct fb_tensor_claim *claim = &b->claims[i];
        if (claim->tensor) {
            memcpy(claim->tensor->ne, claim->ne, sizeof claim->ne);
        }
    }
    b->weights = weights_of_claims(b);
}

/* --- Computing ------------------------------------------------------------------------------ */

struct fb_tensor_claim *fb_claim_of(const struct ggml_tensor *tensor)
{
    if (!tensor) {
        return NULL;
    }
    const struct ggml_tensor *owner = tensor->view_src ? tensor->view_src : tensor;
    if (!owner->buffer || owner->buffer->buft != &fb_device.buft) {
        return NULL;
    }
    return owner->extra;
}

struct fb_tensor_claim *fb_gpu_claim_of(const struct ggml_tensor *tensor)
{
    return tensor->buffer && tensor->buffer->buft == &fb_device.gpu_buft ? tensor->extra : NULL;
}

bool fb_binding_on_gpu(const struct fb_binding *b, int group)
{
    return is_on_gpu(b, b->weights->groups[group].layer);
}

void fb_binding_unpack(
    const struct fb_binding *b, struct fb_workers *w, const struct fb_unpack *unpacks, int n)
{
    struct fb_raw_unit *units = fb_workers_units(w, n);
    for (int i = 0; i < n; i++) {
        const struct fb_weight *weight = &b->weights->weights[unpacks[i].weight];
        units[i] = (struct fb_raw_unit){
            &b->claims[weight->tensor].form, unpacks[i].raw, unpacks[i].dest, weight->file_bytes};
    }
    fb_workers_unpack(w, units, n);
}

enum ggml_status fb_binding_fail(struct fb_binding *b, const struct forebay_error *err)
{
    b->error = *err;
    if (fb_device.hooks) { /* there is no engine that asks for it */
        fb_log(FOREBAY_LOG_ERROR, "%s", err->message);
    }
    return GGML_STATUS_FAILED;
}

enum ggml_status fb_binding_read_routes(
    struct fb_binding *b, struct fb_routing *routing, const struct ggml_tensor *ids, int group)
{
    struct forebay_error error;
    int wrong, n_expert = b->weights->groups[group].n_expert;
    if (!fb_routing_read(routing, ids, n_expert, &wrong)) {
        fb_fail(&error, FOREBAY_E_LLAMA, "The model file may be damaged.",
            "the router chose expert %d of %d", wrong, n_expert);
        return fb_binding_fail(b, &error);
    }
    const struct fb_routes *routes = &routing->routes;
    for (int t = 0; b->observe && t < routes->tokens; t++) {
        b->observe(
            b->observe_user, group, routes->experts + (ptrdiff_t)t * routes->picks, routes->picks);
    }
    return GGML_STATUS_SUCCESS;
}
