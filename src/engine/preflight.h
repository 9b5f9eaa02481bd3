/*
 * preflight.h - all that is known of a model before its weights are read: whether it fits, where
 * each weight will be, how fast it will be.
 *
 *      options, defaults filled in
 *          |
 *          v
 *      catalogue, sidecar, device
 *          |   llama.cpp goes through loading without allocating memory. Its own accounting gives
 *          |   the size of the context and of the intermediate results; its questions to our
 *          v   device, which weights we may claim
 *      needs, claimed weights ----> profile of the machine, history of earlier runs, hit curves
 *          |                             |
 *          v                             v
 *      plan -----------------------> disk, estimate of the speed
 *
 * A forebay_plan is a preflight; a forebay_model owns one and what was loaded by it. llama.cpp
 * loads one model at a time through our device, so a process has one preflight at a time.
 */
#ifndef FB_ENGINE_PREFLIGHT_H
#define FB_ENGINE_PREFLIGHT_H

#include "backend/backend.h"
#include "engine/devices.h"
#include "engine/disk_probe.h"
#include "engine/guard.h"
#include "engine/history.h"
#include "engine/llama_params.h"
#include "plan/estimate.h"

/* Constant once made, except that fb_preflight_end_measuring frees `measuring` and that sessions
 * add to the history. A plain model has no sidecar, history, curves or plan; if it is also mapped
 * from its file and uses no device, it has no binding and no needs either. */
struct fb_preflight {
    struct forebay_model_options options; /* defaults filled in; mem_bytes is the budget */
    struct fb_catalog *catalog;
    struct fb_devices devices;
    struct fb_llama_overrides overrides;
    struct fb_sidecar *sidecar;   /* NULL: none, or none that may be used */
    struct fb_binding *measuring; /* the claimed weights; NULL after fb_preflight_end_measuring */
    struct fb_needs needs;
    struct fb_profile profile;
    struct fb_history *history;
    struct fb_curves *curves;
    struct fb_plan *plan;  /* NULL: llama.cpp holds all weights itself */
    bool ctx_by_memory;    /* no context was given: its length follows from the memory */
    uint64_t before_bytes; /* resident set of the process before the preflight */
    /* The smallest mem_bytes, which is the same whatever mem_bytes is; 0 without a plan. */
    uint64_t minimum_bytes;
    uint64_t context_bytes; /* memory for everything but the planned weights; 0 without a plan */
    struct fb_disk_figures disk; /* measured when the plan reads from it while generating */
    struct fb_speed speed;       /* estimated when there is a plan; 0 if a rate is not known */
};

/* Reads the file's metadata, measures and plans. `options` are copied, the strings in them are not.
 * Takes up to seconds: the first preflight on a machine measures the processor, and each one that
 * streams reads from the disk for 0.3 s.
 * E_USAGE while another preflight exists; E_NOFIT names the smallest budget that works;
 * E_CANCELLED when the progress callback stopped it. */
enum forebay_status fb_preflight_new(const char *path, const struct forebay_model_options *options,
    struct fb_preflight **out, struct forebay_error *err);

/* As above, up to the claimed weights: no device, no sidecar, no profile, no plan. */
enum forebay_status fb_preflight_new_weights(const char *path,
    const struct forebay_model_options *options, struct fb_preflight **out,
    struct forebay_error *err);

/* Call it after freeing the model that was loaded by it. NULL is accepted. */
void fb_preflight_free(struct fb_preflight *preflight);

/* Measures the disk that the plan reads from when loading, unless that has been done. 0.3 s. */
void fb_preflight_probe_disk(struct fb_preflight *preflight);

/* Frees the binding that was used to measure, so that a new one can claim weights. */
void fb_preflight_end_measuring(struct fb_preflight *preflight);

/* A binding for loading. Free it after llama.cpp's model and before the preflight. */
struct fb_binding *fb_preflight_bind(const struct fb_preflight *preflight);

/* --- Memory -------------------------------------------------------------------------------- */

/* The budget to plan with. llama.cpp will allocate `pending_bytes` and has not yet, and
 * `results_bytes` for intermediate results on our device. */
struct fb_budget fb_preflight_budget(
    const struct fb_preflight *preflight, uint64_t pending_bytes, uint64_t results_bytes);

/* pending_bytes once the model is loaded and the context made: growth at the first evaluation. */
uint64_t fb_preflight_later_bytes(const struct fb_preflight *preflight);

/* Weights in the machine's memory when all are loaded. */
uint64_t fb_preflight_host_bytes(const struct fb_preflight *preflight);

/* Of these, weights that llama.cpp keeps itself: those not in `claimed`. */
uint64_t fb_preflight_unclaimed_bytes(
    const struct fb_preflight *preflight, const struct fb_weights *claimed);

/* --- Measuring, for the files of the preflight ---------------------------------------------- */

/* Has llama.cpp go through loading without allocating memory, as the devices' plan says. `user` is
 * the preflight, whose `measuring` is replaced. */
enum forebay_status fb_preflight_measure(
    void *user, struct fb_needs *needs, struct forebay_error *err);

/* Measures without a device, then with as many layers on devices as fit. Sets needs, and the plan
 * of the devices. */
enum forebay_status fb_preflight_measure_devices(
    struct fb_preflight *preflight, struct forebay_error *err);

/* The budget to plan with before llama.cpp has allocated anything. */
struct fb_budget fb_preflight_expected(const struct fb_preflight *preflight);

/* The smallest budget with the batch that was measured. */
uint64_t fb_preflight_least_bytes(const struct fb_preflight *preflight);

/* A plain model must be in memory as a whole: refuses it before the machine suffers. E_NOFIT. */
enum forebay_status fb_preflight_check_plain(
    const struct fb_preflight *preflight, struct forebay_error *err);

/* Bytes that the budget leaves for weights, roughly, before they are planned. */
uint64_t fb_preflight_weights_room(const struct fb_preflight *preflight);

/* Fills the profile with the CPU's rates for these weights, and (when that has been done) with
 * those of the devices in use; measures what is missing. E_CANCELLED. */
enum forebay_status fb_preflight_rates(
    struct fb_preflight *preflight, const struct fb_weights *weights, struct forebay_error *err);
enum forebay_status fb_preflight_device_rates(
    struct fb_preflight *preflight, const struct fb_weights *weights, struct forebay_error *err);

/* Names of the devices as in the profile; empty ones after the last. Points into itself. */
struct fb_device_names {
    char text[FOREBAY_DEVICES][FB_PROFILE_DEVICE];
    const char *of[FOREBAY_DEVICES];
};
void fb_preflight_device_names(const struct fb_preflight *preflight, struct fb_device_names *names);

/* Inputs of an estimate without plan, devices, disk and history. */
struct fb_speed_inputs fb_preflight_speed_inputs(
    const struct fb_preflight *preflight, const struct fb_weights *weights, double past);

/* Slots that a device has for the group's experts. */
int fb_preflight_device_slots(const struct fb_preflight *preflight, const struct fb_group *group);

/* --- Speed --------------------------------------------------------------------------------- */

/* Estimates the speed of a plan (NULL: all weights in memory) of the claimed weights on a disk of
 * this speed, for a token after `past` others. */
void fb_preflight_estimate(const struct fb_preflight *preflight, const struct fb_weights *claimed,
    const struct fb_plan *plan, double disk_bytes_per_s, double past, struct fb_speed *out);

/* `past` to assume before anything has run: a full batch. */
double fb_preflight_usual_past(const struct fb_preflight *preflight);

/* Seconds per token that attention to `past` tokens takes, for one token alone or in a batch. 0
 * when the profile does not say. */
double fb_preflight_attention_s(const struct fb_preflight *preflight, double past, bool batch);

#endif
