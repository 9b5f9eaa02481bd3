/*
 * devices.h - the part of a model that a GPU holds and computes: which device, how much, and what
 * llama.cpp is told.
 *
 * The device takes the output, and as many layers as fit (plan/offload.h). Experts that do not fit
 * are overridden to the CPU's buffer types; of these llama.cpp asks an ACCEL device first, so that
 * Forebay claims them as it claims the dense weights of layers that are not on the device.
 *
 * Exactness here means: equal to llama.cpp with the same n_gpu_layers and overrides, no_host
 * (weights of the CPU are in the CPU's own layouts, not in the device's host buffers) and no
 * op_offload (they are not copied to the device for large batches). `plain` models load just so.
 */
#ifndef FB_ENGINE_DEVICES_H
#define FB_ENGINE_DEVICES_H

#include "llama.h"
#include "plan/offload.h"
#include "forebay.h"

struct fb_needs;

struct fb_devices {
    ggml_backend_dev_t list[2]; /* the one in use, or NULL; then NULL */
    bool shared;                /* its memory is the machine's: a budget covers both */
    uint64_t room_bytes;        /* of its memory, that may be used */
    struct fb_offload_plan plan;
    char *experts; /* a regular expression: tensors that stay with the CPU; NULL: none */
    struct llama_model_tensor_buft_override overrides[2];
};

/* Finds the device of that name: "none", "auto" (the first GPU that is no software renderer, or
 * none) or ggml's name. E_USAGE, listing the devices, when there is no such device. */
enum forebay_status fb_devices_find(
    struct fb_devices *devices, const char *name, struct forebay_error *err);
void fb_devices_release(struct fb_devices *devices);

/* True when a device computes a part of the model. */
bool fb_devices_used(const struct fb_devices *devices);

/* What may be used of the device's memory: `wanted_bytes`, or when that is 0 what is free, less a
 * reserve; at most half of the budget where the memory is the machine's. */
uint64_t fb_devices_room(
    const struct fb_devices *devices, uint64_t wanted_bytes, uint64_t budget_bytes);

/* Sets the plan; an empty one means that no device is used. */
void fb_devices_set_plan(struct fb_devices *devices, const struct fb_catalog *catalog,
    const struct fb_offload_plan *plan);

/* Measures what llama.cpp would take with the present plan, without taking it. */
typedef enum forebay_status (*fb_devices_measure)(
    void *user, struct fb_needs *needs, struct forebay_error *err);

/* Plans for room_bytes of the device: the largest part that fits by llama.cpp's own accounting.
 * `needs` is that of a model without a device, and becomes that of the plan. */
enum forebay_status fb_devices_place(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs, struct forebay_error *err);

/* What llama.cpp must be told. Nothing changes when no device is used. */
void fb_devices_model_params(struct fb_devices *devices, struct llama_model_params *params);
void fb_devices_context_params(
    const struct fb_devices *devices, struct llama_context_params *params);

#endif
