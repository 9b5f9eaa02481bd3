/* devices.c - how much of the model the devices can hold, and what llama.cpp is told. */
#include "engine/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/error.h"
#include "base/units.h"
#include "engine/guard.h"
#include "gpu/proxy.h"
#include "model/weights.h"
#include "plan/device_slots.h"
#include "plan/ffns.h"

/* Memory that the driver of a device without memory of its own takes, above all for compiled
 * shaders. Measured with Mesa's software driver: 40 to 85 MiB. */
#define DRIVER_BYTES (96 * FB_MIB)

void fb_devices_release(struct fb_devices *devices)
{
    free(devices->on_cpu);
    free(devices->in_slots);
    *devices = (struct fb_devices){0};
}

bool fb_devices_used(const struct fb_devices *devices)
{
    return devices->plan.output;
}

int fb_devices_prompt_rows(const struct fb_devices *devices)
{
    return fb_devices_used(devices) ? devices->prompt_rows : 0;
}

/* --- Memory that devices take -------------------------------------------------------------- */

/* llama.cpp's number of device d: those in use are listed from the one with the first layers on. */
static int number_of(const struct fb_devices *devices, int d)
{
    int number = 0;
    for (int other = d + 1; other < devices->n; other++) {
        number += fb_offload_uses(&devices->plan, other);
    }
    return number;
}

uint64_t fb_devices_bytes_on(const struct fb_devices *devices, const struct fb_needs *needs, int d)
{
    return fb_offload_uses(&devices->plan, d) ? needs->bytes_on[number_of(devices, d)] : 0;
}

uint64_t fb_devices_kv_bytes_on(
    const struct fb_devices *devices, const struct fb_needs *needs, int d)
{
    return fb_offload_uses(&devices->plan, d) ? needs->kv_bytes_on[number_of(devices, d)] : 0;
}

bool fb_devices_share(const struct fb_devices *devices)
{
    bool share = false;
    for (int d = 0; d < devices->n; d++) {
        share = share || (devices->all[d].shared && fb_offload_uses(&devices->plan, d));
    }
    return share;
}

uint64_t fb_devices_shared_bytes(const struct fb_devices *devices, const struct fb_needs *needs)
{
    uint64_t bytes = fb_devices_share(devices) ? DRIVER_BYTES : 0;
    for (int d = 0; d < devices->n; d++) {
        bytes += devices->all[d].shared ? fb_devices_bytes_on(devices, needs, d) : 0;
    }
    return bytes;
}

uint64_t fb_devices_shared_compute_bytes(
    const struct fb_devices *devices, const struct fb_needs *needs)
{
    uint64_t bytes = fb_devices_share(devices) ? DRIVER_BYTES : 0;
    for (int d = 0; d < devices->n; d++) {
        if (devices->all[d].shared && fb_offload_uses(&devices->plan, d)) {
            bytes += needs->compute_bytes_on[number_of(devices, d)];
        }
    }
    return bytes;
}

/* --- How much of the model ----------------------------------------------------------------- */

void fb_devices_set_plan(struct fb_devices *devices, const struct fb_offload_plan *plan)
{
    devices->plan = *plan;
}

void fb_devices_slotted(
    const struct fb_devices *devices, const struct fb_catalog *catalog, int *first, int *end)
{
    *end = catalog->n_layer - devices->plan.n_whole;
    *first = *end - devices->plan.n_slotted;
}

/* The device that has layers [first, end); -1: several have. */
static int device_of(const struct fb_devices *devices, int n_layer, int first, int end)
{
    int d = fb_offload_device_of(&devices->plan, n_layer, first);
    return first < end && d == fb_offload_device_of(&devices->plan, n_layer, end - 1) ? d : -1;
}

ggml_backend_dev_t fb_devices_of_slots(
    const struct fb_devices *devices, const struct fb_catalog *catalog)
{
    int first, end;
    fb_devices_slotted(devices, catalog, &first, &end);
    int d = device_of(devices, catalog->n_layer, first, end);
    return d < 0 ? NULL : devices->all[d].dev;
}

/* What fb_offload_search measures with. */
struct measuring {
    struct fb_devices *devices;
    fb_devices_measure measure;
    void *user;
};

static enum forebay_status measure_plan(
    void *user, const struct fb_offload_plan *plan, uint64_t *bytes_on, struct forebay_error *err)
{
    struct measuring *m = user;
    struct fb_needs needs;
    fb_devices_set_plan(m->devices, plan);
    enum forebay_status status = m->measure(m->user, &needs, err);
    for (int d = 0; d < m->devices->n && status == FOREBAY_OK; d++) {
        bytes_on[d] = fb_devices_bytes_on(m->devices, &needs, d);
    }
    return status;
}

static enum forebay_status place(struct fb_devices *devices, const struct fb_catalog *catalog,
    bool ffns_apart, fb_devices_measure measure, void *user, const struct fb_needs *needs,
    struct forebay_error *err)
{
    struct measuring m = {devices, measure, user};
    struct fb_offload_plan plan;
    enum forebay_status status = fb_offload_search(catalog, needs->kv_bytes, needs->compute_bytes,
        ffns_apart, &devices->rooms, measure_plan, &m, &plan, err);
    if (status == FOREBAY_OK) {
        fb_devices_set_plan(devices, &plan);
    }
    return status;
}

enum forebay_status fb_devices_place(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, const struct fb_needs *needs, struct forebay_error *err)
{
    enum forebay_status status = place(devices, catalog, false, measure, user, needs, err);
    struct fb_offload_plan whole = devices->plan;
    if (status != FOREBAY_OK || catalog->n_expert > 0 || whole.n_layers == catalog->n_layer) {
        return status;
    }
    status = place(devices, catalog, true, measure, user, needs, err);
    const struct fb_offload_plan *apart = &devices->plan;
    if (status != FOREBAY_OK || !fb_ffns_better_apart(catalog, fb_offload_bytes(&whole),
                                    fb_offload_bytes(apart), apart->n_layers)) {
        fb_devices_set_plan(devices, &whole);
    }
    return status;
}

/* Bytes of the experts' matrices of layers [first, end). */
static uint64_t expert_bytes(const struct fb_catalog *catalog, int first, int end)
{
    uint64_t bytes = 0;
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        bytes += fb_weights_is_expert(t) && t->layer >= first && t->layer < end ? t->bytes : 0;
    }
    return bytes;
}

static uint64_t largest_unit(const struct fb_catalog *catalog)
{
    uint64_t bytes = 0;
    for (int i = 0; i < catalog->n_tensors; i++) {
        const struct fb_tensor *t = &catalog->tensors[i];
        bytes = fb_weights_is_expert(t) ? fb_max(bytes, t->expert_bytes) : bytes;
    }
    return bytes;
}

int fb_devices_least_whole(const struct fb_devices *devices, const struct fb_catalog *catalog)
{
    int d = fb_offload_device_of(&devices->plan, catalog->n_layer, 0);
    return catalog->n_layer - (d < 0 ? 0 : devices->plan.layers_on[d]);
}

bool fb_devices_use_slots(struct fb_devices *devices, const struct fb_catalog *catalog, int n_whole,
    fb_devices_measure measure, void *user, struct fb_needs *needs)
{
    struct fb_offload_plan before = devices->plan, plan = before;
    struct fb_needs whole, kept = *needs;
    int n = catalog->n_layer, d = device_of(devices, n, 0, n - n_whole);
    if (!before.output || before.n_layers < n || before.n_whole == n || catalog->n_expert == 0 ||
        n_whole > before.n_whole || d < 0) {
        return false;
    }
    plan.n_whole = n; /* as for llama.cpp: intermediate results of experts are on the device */
    fb_devices_set_plan(devices, &plan);
    bool ok = measure(user, &whole, NULL) == FOREBAY_OK;
    uint64_t experts = expert_bytes(catalog, 0, n - n_whole);
    uint64_t rest = fb_devices_bytes_on(devices, &whole, d);
    rest -= fb_min(rest, experts);
    uint64_t room = devices->rooms.bytes[d];
    plan.n_whole = n_whole;
    plan.n_slotted = n - n_whole;
    plan.slots_bytes = room - fb_min(room, rest);
    plan.slots_shared = devices->shares_slots;
    if (plan.slots_shared) {
        plan.slots_bytes = fb_device_slots_transit(plan.slots_bytes, largest_unit(catalog));
    }
    fb_devices_set_plan(devices, &plan);
    ok = ok && measure(user, needs, NULL) == FOREBAY_OK;
    if (!ok || plan.slots_bytes == 0) {
        fb_devices_set_plan(devices, &before);
        *needs = kept;
        return false;
    }
    memcpy(needs->bytes_on, whole.bytes_on, sizeof needs->bytes_on);
    memcpy(needs->kv_bytes_on, whole.kv_bytes_on, sizeof needs->kv_bytes_on);
    memcpy(needs->compute_bytes_on, whole.compute_bytes_on, sizeof needs->compute_bytes_on);
    needs->bytes_on[number_of(devices, d)] = rest + plan.slots_bytes;
    return true;
}

/* --- What llama.cpp is told ---------------------------------------------------------------- */

/* A regular expression for the experts' tensors (or only their matrices) of layers [first, end). A
 * single one, because llama.cpp compiles every expression again for every tensor. */
static char *experts_of_layers(int first, int end, bool matrices)
{
    size_t cap = (size_t)(end - first) * 12 + 96, used = 0;
    char *text = fb_xmalloc(cap);
    used += (size_t)snprintf(text, cap, "^blk\\.(");
    for (int l = first; l < end; l++) {
        used += (size_t)snprintf(text + used, cap - used, "%s%d", l > first ? "|" : "", l);
    }
    snprintf(text + used, cap - used, ")\\.ffn_(gate_up|gate|up|down)_(ch)?exps\\.%s",
        matrices ? "weight$" : "");
    return text;
}

/* Tensors of layers [0, end) that stay with the CPU, though other parts of these are on a device.
 * NULL: there are none. */
static char *kept_by_cpu(
    const struct fb_devices *devices, const struct fb_catalog *catalog, int end)
{
    if (devices->plan.ffns_apart) {
        return fb_ffns_pattern(catalog, end);
    }
    return catalog->n_expert > 0 && end > 0 ? experts_of_layers(0, end, false) : NULL;
}

/* The devices in use and their shares, as llama.cpp wants them: the device with the first layers
 * first, and each share a number of layers, the output being one. `proxied` is given by proxy. */
static void list_used(struct fb_devices *devices, ggml_backend_dev_t proxied)
{
    const struct fb_offload_plan *plan = &devices->plan;
    int n = 0;
    for (int d = devices->n - 1; d >= 0; d--) {
        if (fb_offload_uses(plan, d)) {
            ggml_backend_dev_t dev = devices->all[d].dev;
            devices->list[n] = dev == proxied ? fb_proxy_of(dev) : dev;
            devices->split[n++] = (float)(plan->layers_on[d] + (plan->output_device == d));
        }
    }
    devices->list[n] = NULL;
}

void fb_devices_model_params(struct fb_devices *devices, const struct fb_catalog *catalog,
    enum fb_load_purpose purpose, struct llama_model_params *params)
{
    int n = 0, first, end;
    if (!fb_devices_used(devices)) {
        return;
    }
    fb_devices_slotted(devices, catalog, &first, &end);
    int cpu_end = purpose == FB_TO_MEASURE ? end : first;
    bool slots = purpose == FB_TO_COMPUTE && first < end;
    bool prompts = fb_devices_prompt_rows(devices) > 0;
    ggml_backend_dev_t proxied = slots ? fb_devices_of_slots(devices, catalog)
                                 : prompts && purpose != FB_TO_COMPARE ? devices->all[0].dev
                                                                       : NULL;
    free(devices->on_cpu);
    free(devices->in_slots);
    devices->on_cpu = kept_by_cpu(devices, catalog, cpu_end);
    devices->in_slots = slots ? experts_of_layers(first, end, true) : NULL;
    memset(devices->overrides, 0, sizeof devices->overrides);
    list_used(devices, proxied);
    if (slots) {
        devices->overrides[n++] = (struct llama_model_tensor_buft_override){
            .pattern = devices->in_slots, .buft = fb_device_gpu_buffers()};
    }
    if (devices->on_cpu) {
        devices->overrides[n++] = (struct llama_model_tensor_buft_override){
            .pattern = devices->on_cpu, .buft = ggml_backend_cpu_buffer_type()};
    }
    params->devices = devices->list;
    params->tensor_split = devices->split;
    params->n_gpu_layers = fb_offload_gpu_layers(&devices->plan);
    params->no_host = true;
    params->use_extra_bufts = params->use_extra_bufts && !prompts;
    params->tensor_buft_overrides = n > 0 ? devices->overrides : NULL;
}

void fb_devices_context_params(
    const struct fb_devices *devices, struct llama_context_params *params)
{
    if (fb_devices_used(devices)) {
        params->op_offload = fb_devices_prompt_rows(devices) > 0;
        params->flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
}
