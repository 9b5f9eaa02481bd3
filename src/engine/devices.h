/*
 * devices.h - the part of a model that GPUs hold and compute: which devices, how much of the model,
 * and what llama.cpp is told.
 *
 * The devices get the output and as many layers as fit (plan/offload.h). Experts that do not fit
 * are overridden to the CPU's buffer types. For tensors of these types llama.cpp asks an ACCEL
 * device first, so Forebay claims them as it claims the dense weights of layers that are not on a
 * device.
 *
 * Exact means here: equal to llama.cpp with the same n_gpu_layers, devices, tensor_split and
 * overrides, with no_host (weights of the CPU are in the CPU's own layouts, not in a device's host
 * buffers) and without op_offload (they are not copied to a device for large batches). `plain`
 * models are loaded with these settings.
 *
 * In a model without experts the device, if it is the only one, computes prompts with the CPU's
 * weights, too, which are copied to it for that. Then exact means: with op_offload, which does the
 * same, and without use_extra_bufts, since a device computes with weights as they are in the file.
 */
#ifndef FB_ENGINE_DEVICES_H
#define FB_ENGINE_DEVICES_H

#include "llama.h"
#include "plan/offload.h"
#include "forebay.h"

struct fb_needs;

struct fb_device {
    ggml_backend_dev_t dev;
    bool software; /* a renderer that computes on the CPU */
    bool shared;   /* its memory is the machine's, and so part of the budget */
};

struct fb_devices {
    int n;                                 /* found; 0: none */
    struct fb_device all[FOREBAY_DEVICES]; /* in the order in which they are filled */
    struct fb_offload_rooms rooms;         /* of their memory; at most this may be used */
    bool shares_slots; /* the only device can compute with the stream's slots, and is to do so */
    int prompt_rows;   /* fb_devices_prompt_rows, if the only device is used */
    struct fb_offload_plan plan; /* empty: no device is used */

    /* For llama.cpp, which numbers the devices in use from the one with the first layers on: */
    ggml_backend_dev_t list[FOREBAY_DEVICES + 1]; /* ends with NULL */
    float split[FOREBAY_DEVICES];
    char *on_cpu;   /* regular expression: tensors that stay with the CPU; NULL: none */
    char *in_slots; /* those in slots */
    struct llama_model_tensor_buft_override overrides[3]; /* of these, and an end */
};

/* Finds devices: "none", "auto" (all discrete GPUs that are not software renderers, or else the
 * first integrated one, or none) or ggml's names, separated by commas. Overwrites *devices without
 * freeing it. E_USAGE, listing the devices, when there is no such device. */
enum forebay_status fb_devices_find(
    struct fb_devices *devices, const char *names, struct forebay_error *err);
void fb_devices_release(struct fb_devices *devices);

/* Whether the plan puts part of the model on a device, and whether on one that shares the machine's
 * memory. */
bool fb_devices_used(const struct fb_devices *devices);
bool fb_devices_share(const struct fb_devices *devices);

/* From how many tokens per pass on the device computes with the CPU's weights; 0: never. */
int fb_devices_prompt_rows(const struct fb_devices *devices);

/* Memory of the machine that devices take, and of it, compute buffers. */
uint64_t fb_devices_shared_bytes(const struct fb_devices *devices, const struct fb_needs *needs);
uint64_t fb_devices_shared_compute_bytes(
    const struct fb_devices *devices, const struct fb_needs *needs);

/* Bytes of the plan on device d of `all`, by llama.cpp's accounting. */
uint64_t fb_devices_bytes_on(const struct fb_devices *devices, const struct fb_needs *needs, int d);

/* Of these, KV cache and recurrent state. */
uint64_t fb_devices_kv_bytes_on(
    const struct fb_devices *devices, const struct fb_needs *needs, int d);

/* Sets the rooms: as the options say, or the free memory less a reserve, and at most half of the
 * budget, divided by their number, for devices that share the machine's memory. E_USAGE when the
 * options have sizes for another number of devices. */
enum forebay_status fb_devices_set_rooms(struct fb_devices *devices,
    const struct forebay_model_options *options, struct forebay_error *err);

/* Sets the plan. */
void fb_devices_set_plan(struct fb_devices *devices, const struct fb_offload_plan *plan);

/* The layers whose experts a device computes from slots: [*first, *end). */
void fb_devices_slotted(
    const struct fb_devices *devices, const struct fb_catalog *catalog, int *first, int *end);
/* The device that has all these layers; NULL: there is none. */
ggml_backend_dev_t fb_devices_of_slots(
    const struct fb_devices *devices, const struct fb_catalog *catalog);

/* Measures the memory that llama.cpp would allocate with the current plan. */
typedef enum forebay_status (*fb_devices_measure)(
    void *user, struct fb_needs *needs, struct forebay_error *err);

/* Makes and sets the plan for the rooms: the largest part of the model that fits by llama.cpp's own
 * accounting. `needs`: of the model without a device. The plan that was measured last need not be
 * this one. */
enum forebay_status fb_devices_place(struct fb_devices *devices, const struct fb_catalog *catalog,
    fb_devices_measure measure, void *user, const struct fb_needs *needs,
    struct forebay_error *err);

/* The fewest layers with their experts beside slots: slots are on the device with the first layers,
 * so those on other devices. */
int fb_devices_least_whole(const struct fb_devices *devices, const struct fb_catalog *catalog);

/* Changes the plan, which *needs belong to: the experts of the last n_whole layers stay on the
 * devices, and those of all others are computed from slots in the memory that is left, or from the
 * stream's, with a transit there. False, and nothing changes, when that cannot be: not all layers
 * are on devices, all experts are, the others' layers are not all on one device, or no memory is
 * left. */
bool fb_devices_use_slots(struct fb_devices *devices, const struct fb_catalog *catalog, int n_whole,
    fb_devices_measure measure, void *user, struct fb_needs *needs);

/* What llama.cpp is asked for. */
enum fb_load_purpose {
    FB_TO_MEASURE, /* how much memory it takes: experts in slots count as the CPU's */
    FB_TO_COMPUTE, /* with experts in slots */
    FB_TO_COMPARE, /* plain: experts that are in slots otherwise are on the device as a whole */
};

/* Set what llama.cpp must be told about the devices; nothing when none is used. The parameters
 * point into `devices`. */
void fb_devices_model_params(struct fb_devices *devices, const struct fb_catalog *catalog,
    enum fb_load_purpose purpose, struct llama_model_params *params);
void fb_devices_context_params(
    const struct fb_devices *devices, struct llama_context_params *params);

#endif
