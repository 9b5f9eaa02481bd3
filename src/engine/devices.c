/*
 * devices.c - finds the device, and how much of the model it can hold.
 *
 *      estimate (plan/offload.h) --> llama.cpp measures it --> fits, and more than the best so far?
 *           ^                                                      |   yes: it is the best
 *           +----- the estimate's error corrects the reserve ------+
 */
#include "engine/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/guard.h"
#include "backend/backend.h"
#include "gpu/proxy.h"
#include "model/weights.h"
#include "plan/device_slots.h"
#include "plan/ffns.h"

/* Left free on a device: its driver and the programs that draw the screen need some memory, and not
 * all of the memory reported as free can be allocated. */
#define RESERVE_BYTES (256 * FB_MIB)
#define RESERVE_SHARE 16
/* The estimate of a plan differs from llama.cpp's accounting by compute buffers and by layers with
 * a KV cache of another size. Two rounds were enough for every model tried. */
#define ROUNDS 8

/* --- Which device -------------------------------------------------------------------------- */

static bool is_gpu(ggml_backend_dev_t dev)
{
    enum ggml_backend_dev_type type = ggml_backend_dev_type(dev);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

/* Renderers that compute on the CPU. ggml reports them as GPUs because it drops Vulkan's device
 * type (VK_PHYSICAL_DEVICE_TYPE_CPU), so they are recognised by their descriptions. */
static bool is_software(ggml_backend_dev_t dev)
{
    static const char *const renderers[] = {"llvmpipe", "lavapipe", "softpipe", "SwiftShader"};
    const char *description = ggml_backend_dev_description(dev);
    for (size_t i = 0; i < sizeof renderers / sizeof renderers[0]; i++) {
        if (strstr(description, renderers[i])) {
            return true;
        }
    }
    return false;
}

/* Whether the device's memory is the machine's: integrated GPUs, Apple's, software renderers. */
static bool shares_memory(ggml_backend_dev_t dev)
{
    const char *backend = ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev));
    return ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_IGPU || is_software(dev) ||
           strcmp(backend, "MTL") == 0;
}

/* The first discrete GPU, or else the first integrated one. */
static ggml_backend_dev_t find_any(void)
{
    ggml_backend_dev_t integrated = NULL;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (!is_gpu(dev) || is_software(dev)) {
            continue;
        }
        if (ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_GPU) {
            return dev;
        }
        integrated = integrated ? integrated : dev;
    }
    return integrated;
}

static ggml_backend_dev_t find_named(const char *name)
{
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (is_gpu(dev) && strcmp(ggml_backend_dev_name(dev), name) == 0) {
            return dev;
        }
    }
    return NULL;
}

/* "Vulkan0 (AMD Radeon ...), ...": as many as fit into buf. */
static void list_devices(char *buf, size_t cap)
{
    size_t used = 0;
    buf[0] = 0;
    for (size_t i = 0; i < ggml_backend_dev_count() && used < cap; i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (is_gpu(dev)) {
            used += (size_t)snprintf(buf + used, cap - used, "%s%s (%s)", used ? ", " : "",
                ggml_backend_dev_name(dev), ggml_backend_dev_description(dev));
        }
    }
}

enum forebay_status fb_devices_find(
    struct fb_devices *devices, const char *name, struct forebay_error *err)
{
    ggml_backend_dev_t dev = NULL;
    if (strcmp(name, "auto") == 0) {
        dev = find_any();
    } else if (strcmp(name, "none") != 0) {
        dev = find_named(name);
        if (!dev) {
            char there[200], hint[256];
            list_devices(there, sizeof there);
            snprintf(hint, sizeof hint, "Devices: auto, none%s%s.", there[0] ? ", " : "", there);
            return fb_fail(err, FOREBAY_E_USAGE, hint, "there is no device '%s'", name);
        }
    }
    *devices = (struct fb_devices){.list = {dev, NULL}, .shared = dev && shares_memory(dev)};
    return FOREBAY_OK;
}

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

/* --- How much of the model ----------------------------------------------------------------- */

uint64_t fb_devices_room(
    const struct fb_devices *devices, uint64_t wanted_bytes, uint64_t budget_bytes)
{
    size_t free_bytes = 0, total = 0;
    if (wanted_bytes || !devices->list[0]) {
        return wanted_bytes;
    }
    ggml_backend_dev_memory(devices->list[0], &free_bytes, &total);
    uint64_t reserve = RESERVE_BYTES + total / RESERVE_SHARE;
    uint64_t room = free_bytes - fb_min(free_bytes, reserve);
    return devices->shared ? fb_min(room, budget_bytes / 2) : room;
}

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

static bool same_plan(const struct fb_offload_plan *a, const struct fb_offload_plan *b)
{
    return a->output == b->output && a->n_layers == b->n_layers && a->n_whole == b->n_whole;
}

static enum forebay_status place(struct fb_devices *devices, const struct fb_catalog *catalog,
    bool ffns_apart, fb_devices_measure measure, void *user, struct fb_needs *needs,
    struct forebay_error *err)
{
    struct fb_offload_plan best = {0}, plan;
    struct fb_needs best_needs = *needs, measured;
    uint64_t kv_bytes = needs->kv_bytes, reserve = needs->compute_bytes;
    for (int round = 0; round < ROUNDS; round++) {
        plan = (ffns_apart ? fb_offload_make_apart : fb_offload_make)(
            catalog, kv_bytes, devices->room_bytes, reserve);
        if (!plan.output || same_plan(&plan, &best)) {
            break;
        }
        fb_devices_set_plan(devices, &plan);
        enum forebay_status status = measure(user, &measured, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        uint64_t estimated = plan.weights_bytes + plan.kv_bytes + reserve;
        if (measured.device_bytes <= devices->room_bytes) {
            if (plan.n_layers + plan.n_whole <= best.n_layers + best.n_whole && best.output) {
                break;
            }
            best = plan;
            best_needs = measured;
        }
        /* Correct the next estimate by the error of this one. */
        reserve += measured.device_bytes - fb_min(measured.device_bytes, estimated);
        reserve -= fb_min(reserve, estimated - fb_min(measured.device_bytes, estimated));
    }
    fb_devices_set_plan(devices, &best);
    *needs = best_needs;
    return FOREBAY_OK;
}

/* Places the whole model if it fits: then nothing is copied to the device for prompts, and its
 * buffers for that, which `place` finds in every smaller plan, are not needed. */
static bool place_all(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs)
{
    struct fb_needs measured;
    struct fb_offload_plan all = fb_offload_make(catalog, needs->kv_bytes, devices->room_bytes, 0);
    if (all.n_layers < catalog->n_layer) {
        return false;
    }
    fb_devices_set_plan(devices, &all);
    if (measure(user, &measured, NULL) != FOREBAY_OK ||
        measured.device_bytes > devices->room_bytes) {
        return false;
    }
    *needs = measured;
    return true;
}

enum forebay_status fb_devices_place(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs, struct forebay_error *err)
{
    struct fb_needs apart_needs = *needs;
    if (catalog->n_expert == 0 && place_all(devices, catalog, measure, user, needs)) {
        return FOREBAY_OK;
    }
    enum forebay_status status = place(devices, catalog, false, measure, user, needs, err);
    struct fb_offload_plan whole = devices->plan;
    if (status != FOREBAY_OK || catalog->n_expert > 0 || whole.n_layers == catalog->n_layer) {
        return status;
    }
    status = place(devices, catalog, true, measure, user, &apart_needs, err);
    const struct fb_offload_plan *apart = &devices->plan;
    if (status == FOREBAY_OK && fb_ffns_better_apart(catalog, fb_offload_bytes(&whole),
                                    fb_offload_bytes(apart), apart->n_layers)) {
        *needs = apart_needs;
    } else {
        fb_devices_set_plan(devices, &whole);
    }
    return status;
}

/* Bytes of all matrices of experts. */
static uint64_t expert_bytes(const struct fb_catalog *catalog)
{
    uint64_t bytes = 0;
    for (int i = 0; i < catalog->n_tensors; i++) {
        bytes += fb_weights_is_expert(&catalog->tensors[i]) ? catalog->tensors[i].bytes : 0;
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

bool fb_devices_use_slots(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs)
{
    struct fb_offload_plan before = devices->plan, plan = before;
    struct fb_needs whole, kept = *needs;
    int n = catalog->n_layer;
    if (!before.output || before.n_layers < n || before.n_whole == n || catalog->n_expert == 0) {
        return false;
    }
    plan.n_whole = n; /* as for llama.cpp: intermediate results of experts are on the device */
    fb_devices_set_plan(devices, &plan);
    bool ok = measure(user, &whole, NULL) == FOREBAY_OK;
    uint64_t rest = whole.device_bytes - fb_min(whole.device_bytes, expert_bytes(catalog));
    plan.n_whole = 0;
    plan.n_slotted = n;
    plan.slots_bytes = devices->room_bytes - fb_min(devices->room_bytes, rest);
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
    needs->device_bytes = rest + plan.slots_bytes;
    needs->device_compute_bytes = whole.device_compute_bytes;
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

/* Tensors of layers [0, end) that stay with the CPU, though other parts of these are on the device.
 * NULL: there are none. */
static char *kept_by_cpu(
    const struct fb_devices *devices, const struct fb_catalog *catalog, int end)
{
    if (devices->plan.ffns_apart) {
        return fb_ffns_pattern(catalog, end);
    }
    return catalog->n_expert > 0 && end > 0 ? experts_of_layers(0, end, false) : NULL;
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
    bool slots =
        purpose == FB_TO_COMPUTE && first<end, prompts = fb_devices_prompt_rows(devices)> 0;
    bool proxied = slots || (prompts && purpose != FB_TO_COMPARE);
    free(devices->on_cpu);
    free(devices->in_slots);
    devices->on_cpu = kept_by_cpu(devices, catalog, cpu_end);
    devices->in_slots = slots ? experts_of_layers(first, end, true) : NULL;
    memset(devices->overrides, 0, sizeof devices->overrides);
    if (proxied) {
        devices->proxied[0] = fb_proxy_of(devices->list[0]);
    }
    if (slots) {
        devices->overrides[n++] = (struct llama_model_tensor_buft_override){
            .pattern = devices->in_slots, .buft = fb_device_gpu_buffers()};
    }
    if (devices->on_cpu) {
        devices->overrides[n++] = (struct llama_model_tensor_buft_override){
            .pattern = devices->on_cpu, .buft = ggml_backend_cpu_buffer_type()};
    }
    params->devices = proxied ? devices->proxied : devices->list;
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
