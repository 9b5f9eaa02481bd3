/*
 * devices.h - the part of a model that a GPU holds and computes: which device, how much of the
 * model, and what llama.cpp is told.
 *
 * The device gets the output and as many layers as fit (plan/offload.h). Experts that do not fit
 * are overridden to the CPU's buffer types. For tensors of these types llama.cpp asks an ACCEL
 * device first, so Forebay claims them as it claims the dense weights of layers that are not on the
 * device.
 *
 * Exact means here: equal to llama.cpp with the same n_gpu_layers and overrides, with no_host
 * (weights of the CPU are in the CPU's own layouts, not in the device's host buffers) and without
 * op_offload (they are not copied to the device for large batches). `plain` models are loaded with
 * these settings.
 *
 * In a model without experts the device computes prompts with the CPU's weights, too, which are
 * copied to it for that. Then exact means: with op_offload, which does the same, and without
 * use_extra_bufts, since a device computes with weights as they are in the file.
 */
#ifndef FB_ENGINE_DEVICES_H
#define FB_ENGINE_DEVICES_H

#include "llama.h"
#include "plan/offload.h"
#include "forebay.h"

struct fb_needs;

struct fb_devices {
    ggml_backend_dev_t list[2];    /* the device or NULL; then NULL, as llama.cpp wants it */
    bool shared;                   /* its memory is the machine's, and so part of the budget */
    bool shares_slots;             /* it can compute with the stream's slots, and is to do so */
    uint64_t room_bytes;           /* of its memory; at most this may be used */
    int prompt_rows;               /* fb_devices_prompt_rows, if the device is used */
    struct fb_offload_plan plan;   /* empty: the device is not used */
    ggml_backend_dev_t proxied[2]; /* the device's proxy (gpu/proxy.h) in place of it */
    char *on_cpu;   /* regular expression: tensors that stay with the CPU; NULL: none */
    char *in_slots; /* those in slots */
    struct llama_model_tensor_buft_override overrides[3]; /* of these, and an end */
};

/* Finds a device: "none", "auto" (the first GPU that is not a software renderer, or none) or ggml's
 * name. Overwrites *devices without freeing it. E_USAGE, listing the devices, when there is no such
 * device. */
enum forebay_status fb_devices_find(
    struct fb_devices *devices, const char *name, struct forebay_error *err);
void fb_devices_release(struct fb_devices *devices);

/* Whether the plan puts part of the model on the device. */
bool fb_devices_used(const struct fb_devices *devices);

/* From how many tokens per pass on the device computes with the CPU's weights; 0: never. */
int fb_devices_prompt_rows(const struct fb_devices *devices);

/* Bytes of the device's memory that may be used: `wanted_bytes`; if that is 0, the free memory less
 * a reserve, and at most half of the budget where the memory is the machine's. */
uint64_t fb_devices_room(
    const struct fb_devices *devices, uint64_t wanted_bytes, uint64_t budget_bytes);

/* Sets the plan. */
void fb_devices_set_plan(struct fb_devices *devices, const struct fb_offload_plan *plan);

/* The layers whose experts the device computes from slots: [*first, *end). */
void fb_devices_slotted(
    const struct fb_devices *devices, const struct fb_catalog *catalog, int *first, int *end);

/* Measures the memory that llama.cpp would allocate with the current plan. */
typedef enum forebay_status (*fb_devices_measure)(
    void *user, struct fb_needs *needs, struct forebay_error *err);

/* Makes and sets the plan for room_bytes of the device: the largest part of the model that fits by
 * llama.cpp's own accounting. `needs`: in, of the model without a device; out, with the plan. */
enum forebay_status fb_devices_place(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs, struct forebay_error *err);

/* Changes the plan, which *needs belong to: the device computes the experts of all layers, from
 * slots in the memory that is left, or from the stream's, with a transit there. False, and nothing
 * changes, when that cannot be: not all layers are on it, all experts are, or no memory is left. */
bool fb_devices_use_slots(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, struct fb_needs *needs);

/* What llama.cpp is asked for. */
enum fb_load_purpose {
    FB_TO_MEASURE, /* how much memory it takes: experts in slots count as the CPU's */
    FB_TO_COMPUTE, /* with experts in slots */
    FB_TO_COMPARE, /* plain: experts that are in slots otherwise are on the device as a whole */
};

/* Set what llama.cpp must be told about the device; nothing when it is not used. The parameters
 * point into `devices`. */
void fb_devices_model_params(struct fb_devices *devices, const struct fb_catalog *catalog,
    enum fb_load_purpose purpose, struct llama_model_params *params);
void fb_devices_context_params(
    const struct fb_devices *devices, struct llama_context_params *params);

#endif
