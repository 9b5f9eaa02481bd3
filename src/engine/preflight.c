/*
 * preflight.c - see preflight.h. The steps, and what makes some of them run again:
 *
 *      open        options, device, catalogue; a trial in a child process (trial.h); sidecar
 *      measure     llama.cpp loads without memory: without the device, then with more or fewer
 *                  layers on it (devices.h); the last of these bindings gives the claimed weights
 *      gather      history and curves of their groups, rates of their types
 *      plan        streaming? then measure, gather and plan again, with a larger batch
 *      estimate    after probing the disk, if the plan reads from it
 *
 * When the plan does not fit beside a device that shares the machine's memory, everything from
 * "measure" is done again without the device.
 */
#include "engine/preflight.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/libs.h"
#include "engine/llama_params.h"
#include "engine/model_options.h"
#include "engine/sidecar_choice.h"
#include "engine/trial.h"
#include "gpu/gpu.h"
#include "gpu/gpu_shared.h"
#include "model/meta.h"
#include "model/runnable.h"
#include "os/memory.h"
#include "plan/batch_size.h"
#include "plan/context.h"

/* A context longer than the least one may add a RESULTS_SHARE-th of the budget to the intermediate
 * results. */
#define RESULTS_SHARE 16

/* --- Binding and measuring ----------------------------------------------------------------- */

static struct fb_binding *new_binding(const struct fb_preflight *p, bool measuring)
{
    bool prompts = fb_devices_prompt_rows(&p->devices) > 0;
    struct fb_binding *binding =
        fb_binding_new(p->catalog, p->options.repack && !prompts, measuring);
    if (prompts) {
        fb_binding_give_prompts(binding);
    }
    if (fb_devices_used(&p->devices)) {
        int first, end;
        fb_binding_beside_device(binding);
        fb_devices_slotted(&p->devices, p->catalog, &first, &end);
        fb_binding_give_gpu(binding, first, end);
        if (p->devices.plan.slots_shared) {
            fb_binding_share_slots(binding);
        }
    }
    if (p->sidecar) {
        fb_binding_use_sidecar(binding, p->sidecar);
    }
    return binding;
}

struct fb_binding *fb_preflight_bind(const struct fb_preflight *p)
{
    return new_binding(p, false);
}

void fb_preflight_end_measuring(struct fb_preflight *p)
{
    fb_binding_free(p->measuring);
    p->measuring = NULL;
}

enum forebay_status fb_preflight_measure(
    void *user, struct fb_needs *needs, struct forebay_error *err)
{
    struct fb_preflight *p = user;
    fb_preflight_end_measuring(p);
    p->measuring = new_binding(p, true);
    fb_llama_overrides_init(&p->overrides, &p->options, p->catalog);
    enum forebay_status status = fb_guard_measure(p->catalog->files[0]->path,
        fb_llama_model_params(&p->options, p->catalog, &p->devices, &p->overrides, FB_TO_MEASURE),
        fb_llama_context_params(&p->options, &p->devices, &p->overrides, true), needs, err);
    if (status == FOREBAY_OK && fb_devices_prompt_rows(&p->devices) > 0) {
        uint64_t bytes = fb_gpu_prompt_bytes(fb_binding_weights(p->measuring));
        needs->bytes_on[0] += bytes; /* the only device */
        needs->compute_bytes_on[0] += bytes;
    }
    return status == FOREBAY_OK ? fb_binding_check_types(p->measuring, err) : status;
}

/* For fb_trial, in a child process; `user` is the preflight. */
static enum forebay_status measure_first(void *user, struct forebay_error *err)
{
    struct fb_preflight *p = user;
    fb_device_register();
    return fb_preflight_measure(p, &p->needs, err);
}

/* --- Machine and history ------------------------------------------------------------------- */

static void forget_history(struct fb_preflight *p)
{
    fb_history_free(p->history);
    fb_curves_free(p->curves);
    p->history = NULL;
    p->curves = NULL;
}

/* Fills in history, curves and profile; measures rates that the profile lacks. */
static enum forebay_status gather(struct fb_preflight *p, struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    forget_history(p);
    p->history = fb_history_open(ws);
    p->curves = fb_curves_new(ws, fb_history_reuse(p->history));
    return fb_preflight_rates(p, ws, err);
}

/* As the options say, or measured on the file that will be read. */
void fb_preflight_probe_disk(struct fb_preflight *p)
{
    if (p->disk.bytes_per_s > 0) {
        return;
    }
    struct fb_file *sidecar = p->sidecar ? fb_sidecar_file(p->sidecar) : NULL;
    if (p->options.disk_bytes_per_s > 0) {
        p->disk = (struct fb_disk_figures){
            .bytes_per_s = (double)p->options.disk_bytes_per_s, .burst = 1};
    } else if (sidecar) {
        p->disk = fb_disk_probe(&sidecar, 1, p->options.io_method);
    } else {
        p->disk = fb_disk_probe(p->catalog->files, p->catalog->n_files, p->options.io_method);
    }
}

/* --- Planning ------------------------------------------------------------------------------ */

static enum forebay_status plan_once(struct fb_preflight *p, struct forebay_error *err)
{
    struct fb_budget budget = fb_preflight_expected(p);
    fb_plan_free(p->plan);
    p->plan = NULL;
    return fb_binding_plan(p->measuring, &budget, &p->plan, &p->context_bytes, err);
}

/* With a larger batch a device may have room for fewer layers, which then become ours: other groups
 * have another history. */
static enum forebay_status plan_batch(
    struct fb_preflight *p, uint32_t batch, struct forebay_error *err)
{
    p->options.batch = batch;
    enum forebay_status status = fb_preflight_measure_devices(p, err);
    if (status == FOREBAY_OK && p->curves->n_groups != fb_binding_weights(p->measuring)->n_groups) {
        status = gather(p, err);
    }
    return status == FOREBAY_OK ? plan_once(p, err) : status;
}

/* Batches between which one is chosen, and what they need. */
struct batches {
    uint32_t least, usual; /* equal: the batch was given */
    uint64_t needed_bytes; /* the smallest budget with the usual one */
    double token_bytes;    /* a token more */
};

/* The batch for streaming. */
static uint32_t batch_size(const struct fb_preflight *p, const struct batches *b)
{
    bool experts = p->catalog->n_expert_used > 0;
    double more = b->token_bytes * (b->usual - b->least);
    const struct fb_batch_inputs in = {
        .budget_bytes = p->options.mem_bytes,
        .least_bytes = b->needed_bytes - fb_min(b->needed_bytes, (uint64_t)more),
        .token_bytes = b->token_bytes,
        .n_expert = p->catalog->n_expert,
        .n_used = p->catalog->n_expert_used,
        .lent = experts && !fb_devices_used(&p->devices) && !p->options.weights_mem_bytes,
        .ctx = p->options.ctx,
    };
    return fb_batch_size(&in);
}

/* Plans with the usual batch, which was measured; unless everything fits, with the best one. */
static enum forebay_status plan_best_batch(
    struct fb_preflight *p, const struct batches *b, struct forebay_error *err)
{
    if (b->least == b->usual) {
        return plan_once(p, err);
    }
    enum forebay_status status = FOREBAY_E_NOFIT;
    struct forebay_error unused;
    if (p->options.weights_mem_bytes || p->options.mem_bytes >= b->needed_bytes) {
        status = plan_once(p, &unused);
    }
    if (status == FOREBAY_OK && p->plan->everything_fits) {
        return status;
    }
    uint32_t batch = batch_size(p, b);
    if (status == FOREBAY_OK && batch == b->usual) {
        return status;
    }
    if (batch > b->least && plan_batch(p, batch, &unused) == FOREBAY_OK) {
        return FOREBAY_OK;
    }
    return plan_batch(p, b->least, err);
}

/* Memory that grows with the context. */
static uint64_t growing_bytes(const struct fb_preflight *p)
{
    return p->needs.kv_bytes +
           2 * sizeof(float) * (uint64_t)fb_options_cells(&p->options) * p->options.batch;
}

/* Lengthens the context beyond the least one, with which the model needs `needed` bytes, as far as
 * the memory allows (plan/context.h), and measures again. */
static enum forebay_status lengthen_context(
    struct fb_preflight *p, uint64_t needed, struct forebay_error *err)
{
    const struct fb_weights *ws = fb_binding_weights(p->measuring);
    uint32_t least = p->options.ctx;
    struct fb_context_inputs in = {
        .budget_bytes = fb_min(p->options.mem_bytes, fb_memory_default_budget()),
        .fits_bytes = needed - fb_plan_minimum(ws) + ws->dense_bytes + ws->expert_bytes,
        .least_bytes = growing_bytes(p),
        .least = least,
        .trained = fb_options_longest_ctx(&p->options, p->catalog),
    };
    uint64_t results = p->needs.compute_bytes;
    p->options.ctx = fb_context_default(&in);
    if (p->options.ctx == least) {
        return FOREBAY_OK;
    }
    struct forebay_error unused;
    enum forebay_status status = fb_preflight_measure_devices(p, &unused);
    uint64_t grown = p->needs.compute_bytes - fb_min(results, p->needs.compute_bytes);
    if (status == FOREBAY_OK && grown <= fb_max(results, in.budget_bytes / RESULTS_SHARE)) {
        return status;
    }
    p->options.ctx = least;
    return fb_preflight_measure_devices(p, err);
}

/* Measures with the batch that was given; without one, with the least and then with the usual one.
 */
static enum forebay_status measure_batches(
    struct fb_preflight *p, struct batches *b, struct forebay_error *err)
{
    p->options.batch = b->least;
    enum forebay_status status = fb_preflight_measure_devices(p, err);
    if (status != FOREBAY_OK || p->options.plain) {
        return status;
    }
    p->minimum_bytes = b->needed_bytes = fb_preflight_least_bytes(p);
    if (b->least < b->usual) {
        p->options.batch = b->usual;
        status = fb_preflight_measure_devices(p, err);
    }
    if (status == FOREBAY_OK && b->least < b->usual) {
        b->needed_bytes = fb_preflight_least_bytes(p);
        uint64_t more = b->needed_bytes - fb_min(b->needed_bytes, p->minimum_bytes);
        b->token_bytes = (double)more / (b->usual - b->least);
    }
    return status;
}

static enum forebay_status measure_and_plan(
    struct fb_preflight *p, bool choose_batch, struct forebay_error *err)
{
    struct batches b = {.least = p->options.batch, .usual = p->options.batch};
    if (choose_batch && !p->options.plain) {
        b.least = (uint32_t)fb_min(b.least, FB_BATCH_LEAST);
    }
    enum forebay_status status = measure_batches(p, &b, err);
    if (status != FOREBAY_OK || p->options.plain) {
        return status;
    }
    if (p->ctx_by_memory && p->options.mem_bytes >= b.needed_bytes &&
        !p->options.weights_mem_bytes) {
        status = lengthen_context(p, b.needed_bytes, err);
        b.needed_bytes = status == FOREBAY_OK ? fb_preflight_least_bytes(p) : 0;
    }
    if (status == FOREBAY_OK) {
        status = gather(p, err);
    }
    if (status == FOREBAY_OK) {
        status = plan_best_batch(p, &b, err);
    }
    if (status == FOREBAY_OK && !p->plan->everything_fits) {
        fb_preflight_probe_disk(p);
    }
    if (status == FOREBAY_OK && !fb_devices_used(&p->devices)) { /* else later: see measure */
        fb_preflight_estimate(p, fb_binding_weights(p->measuring), p->plan, p->disk.bytes_per_s,
            fb_preflight_usual_past(p), &p->speed);
    }
    return status;
}

/* With several devices, slots are copies. */
static bool shares_slots(const struct fb_preflight *p)
{
    return p->devices.n == 1 && p->devices.all[0].shared && p->catalog->n_expert > 0 &&
           fb_options_share_slots(&p->options) && fb_gpu_shared_works(p->devices.all[0].dev);
}

/* Weights on a device that shares the machine's memory cannot be streamed. If the model does not
 * fit with one, and the user did not ask for it, the device is left out. */
static enum forebay_status measure(
    struct fb_preflight *p, bool choose_batch, struct forebay_error *err)
{
    if (fb_options_map_file(&p->options) && p->devices.n == 0) {
        return FOREBAY_OK; /* nothing to place; our device stays unknown to llama.cpp */
    }
    fb_device_register();
    p->devices.shares_slots = shares_slots(p);
    uint32_t least_ctx = p->options.ctx;
    enum forebay_status status = measure_and_plan(p, choose_batch, err);
    if (status == FOREBAY_E_NOFIT && fb_devices_share(&p->devices) &&
        strcmp(p->options.device, "auto") == 0) {
        fb_devices_release(&p->devices);
        p->options.ctx = least_ctx;
        status = measure_and_plan(p, choose_batch, err);
    }
    if (status == FOREBAY_OK && p->plan && fb_devices_used(&p->devices)) {
        fb_preflight_estimate(p, fb_binding_weights(p->measuring), p->plan, p->disk.bytes_per_s,
            fb_preflight_usual_past(p), &p->speed);
    }
    return status;
}

/* --- Made and freed ------------------------------------------------------------------------ */

static bool exists; /* a preflight: the device serves one model at a time */

/* Options, device and catalogue. *choose_batch: no batch was given. */
static enum forebay_status open_model(
    struct fb_preflight *p, const char *path, bool *choose_batch, struct forebay_error *err)
{
    enum forebay_status status = fb_libs_load(err);
    *choose_batch = p->options.batch == 0;
    p->ctx_by_memory = p->options.ctx == 0 && !p->options.plain;
    if (status == FOREBAY_OK) {
        status = fb_options_fill(&p->options, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_devices_find(&p->devices, p->options.device, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_catalog_open(path, true, &p->catalog, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_catalog_check_runnable(p->catalog, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_options_fill_ctx(&p->options, p->catalog, err);
    }
    return status == FOREBAY_OK ? fb_trial(p->catalog, measure_first, p, err) : status;
}

static enum forebay_status make(struct fb_preflight *p, const char *path, struct forebay_error *err)
{
    bool choose_batch;
    enum forebay_status status = open_model(p, path, &choose_batch, err);
    if (status == FOREBAY_OK && !p->options.plain) {
        status =
            fb_sidecar_choose(p->catalog, p->options.sidecar, p->options.repack, &p->sidecar, err);
    }
    if (status == FOREBAY_OK) {
        status = measure(p, choose_batch, err);
    }
    if (status == FOREBAY_OK && p->options.plain && !p->options.mmap) {
        status = fb_preflight_check_plain(p, err);
    }
    return status;
}

static enum forebay_status make_weights(
    struct fb_preflight *p, const char *path, struct forebay_error *err)
{
    bool choose_batch;
    p->options.device = "none";
    enum forebay_status status = open_model(p, path, &choose_batch, err);
    if (status == FOREBAY_OK) {
        fb_device_register();
        status = fb_preflight_measure(p, &p->needs, err);
    }
    return status;
}

static enum forebay_status new_by(
    enum forebay_status (*maker)(struct fb_preflight *, const char *, struct forebay_error *),
    const char *path, const struct forebay_model_options *options, struct fb_preflight **out,
    struct forebay_error *err)
{
    if (exists) {
        return fb_fail(err, FOREBAY_E_USAGE, "Free the other model first.",
            "this process has a model already");
    }
    exists = true;
    struct fb_preflight *p = fb_xcalloc(1, sizeof *p);
    p->options = *options;
    p->before_bytes = fb_memory_rss();
    enum forebay_status status = maker(p, path, err);
    if (status != FOREBAY_OK) {
        fb_preflight_free(p);
        return status;
    }
    *out = p;
    return FOREBAY_OK;
}

enum forebay_status fb_preflight_new(const char *path, const struct forebay_model_options *options,
    struct fb_preflight **out, struct forebay_error *err)
{
    return new_by(make, path, options, out, err);
}

enum forebay_status fb_preflight_new_weights(const char *path,
    const struct forebay_model_options *options, struct fb_preflight **out,
    struct forebay_error *err)
{
    return new_by(make_weights, path, options, out, err);
}

void fb_preflight_free(struct fb_preflight *p)
{
    if (!p) {
        return;
    }
    fb_binding_free(p->measuring);
    fb_plan_free(p->plan);
    forget_history(p);
    fb_devices_release(&p->devices);
    fb_sidecar_close(p->sidecar);
    fb_catalog_free(p->catalog);
    free(p);
    exists = false;
}
