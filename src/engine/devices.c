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
    free(devices->experts);
    *devices = (struct fb_devices){0};
}

bool fb_devices_used(const struct fb_devices *devices)
{
    return devices->plan.output;
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

/* A regular expression for the expert tensors of layers 0 .. n - 1. A single one, because llama.cpp
 * compiles every expression again for every tensor. */
static char *experts_of_layers(int n)
{
    static const char end[] = ")\\.ffn_(gate_up|gate|up|down)_(ch)?exps\\.";
    size_t cap = (size_t)n * 12 + 64, used = 0;
    char *text = fb_xmalloc(cap);
    used += (size_t)snprintf(text, cap, "^blk\\.(");
    for (int l = 0; l < n; l++) {
        used += (size_t)snprintf(text + used, cap - used, "%s%d", l ? "|" : "", l);
    }
    snprintf(text + used, cap - used, "%s", end);
    return text;
}

void fb_devices_set_plan(struct fb_devices *devices, const struct fb_catalog *catalog,
    const struct fb_offload_plan *plan)
{
    free(devices->experts);
    devices->experts = NULL;
    devices->plan = *plan;
    if (plan->output && catalog->n_expert > 0 && plan->n_whole < catalog->n_layer) {
        devices->experts = experts_of_layers(catalog->n_layer - plan->n_whole);
        devices->overrides[0] = (struct llama_model_tensor_buft_override){
            .pattern = devices->experts, .buft = ggml_backend_cpu_buffer_type()};
    }
}

static bool same_plan(const struct fb_offload_plan *a, const struct fb_offload_plan *b)
{
    return a->output == b->output && a->n_layers == b->n_layers && a->n_whole == b->n_whole;
}

enum forebay_status fb_devices_place(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs, struct forebay_error *err)
{
    struct fb_offload_plan best = {0}, plan;
    struct fb_needs best_needs = *needs, measured;
    uint64_t kv_bytes = needs->kv_bytes, reserve = needs->compute_bytes;
    for (int round = 0; round < ROUNDS; round++) {
        plan = fb_offload_make(catalog, kv_bytes, devices->room_bytes, reserve);
        if (!plan.output || same_plan(&plan, &best)) {
            break;
        }
        fb_devices_set_plan(devices, catalog, &plan);
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
    fb_devices_set_plan(devices, catalog, &best);
    *needs = best_needs;
    return FOREBAY_OK;
}

/* --- What llama.cpp is told ---------------------------------------------------------------- */

void fb_devices_model_params(const struct fb_devices *devices, struct llama_model_params *params)
{
    if (!fb_devices_used(devices)) {
        return;
    }
    params->devices = (ggml_backend_dev_t *)devices->list; /* llama.cpp does not write to it */
    params->n_gpu_layers = fb_offload_gpu_layers(&devices->plan);
    params->no_host = true;
    if (devices->experts) {
        params->tensor_buft_overrides = devices->overrides;
    }
}

void fb_devices_context_params(
    const struct fb_devices *devices, struct llama_context_params *params)
{
    if (fb_devices_used(devices)) {
        params->op_offload = false;
        params->flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
}
