/*
 * sim.c - runs a simulation from start to end:
 *
 *      subject, trace --> do they match? --> plan --> stream on a virtual disk --> replay.c
 *                                              \----> slots --> belady.c
 */
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "cache/cache.h"
#include "model/trace.h"
#include "plan/device_slots.h"
#include "plan/plan.h"
#include "sim/belady.h"
#include "sim/replay.h"
#include "sim/subject.h"

#define WARM_UP_MAX 64 /* tokens after which the cache was full, in all known traces */

void fb_sim_options_init(struct fb_sim_options *options)
{
    *options = (struct fb_sim_options){
        .disk_bytes_per_s = 1.8e9, .latency_s = 100e-6, .warm_up = -1, .upload_bytes_per_s = 25e9};
}

const char *fb_sim_policy_names(void)
{
    return fb_cache_policy_names();
}

/* --- Model and trace -------------------------------------------------------------------------- */

static void describe(const struct fb_subject *subject, const char *model,
    const struct fb_trace *trace, struct fb_sim_report *out)
{
    snprintf(out->model, sizeof out->model, "%.80s: %d layers of %d experts, %d used", model,
        subject->weights->n_groups, fb_subject_experts(subject), subject->catalog->n_expert_used);
    snprintf(out->trace, sizeof out->trace, "%s: %d layers of %d experts, %d used", trace->model,
        trace->n_layer, trace->n_expert, trace->top_k);
}

static enum forebay_status check_match(const struct fb_subject *subject,
    const struct fb_trace *trace, const struct fb_sim_report *report, struct forebay_error *err)
{
    const struct fb_weights *ws = subject->weights;
    bool fits = trace->n_layer == ws->n_groups && trace->n_expert == fb_subject_experts(subject) &&
                trace->top_k <= subject->catalog->n_expert_used;
    for (int g = 0; g < ws->n_groups && fits; g++) {
        for (int t = 0; t < trace->n_tokens; t++) {
            const uint16_t *route = fb_trace_route(trace, t, g);
            for (int k = 0; route && k < trace->top_k; k++) {
                fits = fits && route[k] < ws->groups[g].n_expert;
            }
        }
    }
    if (!fits) {
        return fb_fail(err, FOREBAY_E_USAGE,
            "Give a trace of this model, or a shape that matches the trace.",
            "the trace (%s) does not match the model (%s)", report->trace, report->model);
    }
    return FOREBAY_OK;
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* A plan with n slots in every layer and all dense weights resident; with a transit if
 * `batches`. */
static struct fb_plan *plan_of_slots(const struct fb_weights *ws, int n, bool batches)
{
    struct fb_plan *plan = fb_xcalloc(1, sizeof *plan);
    plan->n_weights = ws->n_weights;
    plan->n_groups = ws->n_groups;
    plan->resident = fb_xcalloc((size_t)ws->n_weights, sizeof *plan->resident);
    plan->slots = fb_xcalloc((size_t)ws->n_groups, sizeof *plan->slots);
    for (int i = 0; i < ws->n_weights; i++) {
        plan->resident[i] = ws->weights[i].group < 0;
        if (!plan->resident[i] && ws->weights[i].unpack != FB_UNPACK_DIRECT) {
            plan->staging_bytes = fb_max(plan->staging_bytes, 16 * fb_weight_envelope(ws, i));
        }
    }
    for (int g = 0; g < ws->n_groups; g++) {
        plan->slots[g] = (int)fb_min((uint64_t)n, (uint64_t)ws->groups[g].n_expert);
        plan->cache_bytes += (uint64_t)plan->slots[g] * ws->groups[g].slot_bytes;
    }
    plan->resident_bytes = ws->dense_bytes;
    plan->transit_bytes = batches ? fb_plan_most_transit(ws) : 0;
    plan->total_bytes = plan->cache_bytes + plan->resident_bytes + plan->staging_bytes;
    plan->budget_bytes = plan->total_bytes + plan->transit_bytes; /* which is spare */
    return plan;
}

static enum forebay_status make_plan(const struct fb_weights *ws, const struct fb_trace *trace,
    const struct fb_sim_options *options, struct fb_plan **out, struct forebay_error *err)
{
    if (options->slots == 0) {
        return fb_plan_make(ws, options->mem_bytes, 0, NULL, out, err);
    }
    if (options->slots < trace->top_k) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give at least as many slots as a token uses experts.",
            "--slots %d is too few: a token needs %d experts of a layer at once", options->slots,
            trace->top_k);
    }
    *out = plan_of_slots(ws, options->slots, options->prefill);
    return FOREBAY_OK;
}

static bool has_device(const struct fb_sim_options *options)
{
    return options->device_bytes > 0 || options->device_slots > 0;
}

/* Fills in the slots that each layer has on the device. */
static enum forebay_status divide_device(const struct fb_weights *ws,
    const struct fb_sim_options *options, struct fb_sim_report *out, struct forebay_error *err)
{
    int end_layer = ws->catalog->n_layer;
    uint64_t least = fb_device_slots_least(ws, 0, end_layer);
    struct fb_device_slots slots = {.n = (uint64_t)options->device_slots};
    if (options->device_slots == 0) {
        if (options->device_bytes < least) {
            char hint[96];
            unsigned long long kib = fb_round_up(least, FB_KIB) / FB_KIB;
            snprintf(hint, sizeof hint, "Give at least %lluK of the device.", kib);
            return fb_fail(err, FOREBAY_E_NOFIT, hint,
                "slots on a device need at least %s of its memory, not %s", FB_SIZE(least),
                FB_SIZE(options->device_bytes));
        }
        slots = fb_device_slots_make(ws, 0, end_layer, options->device_bytes);
    }
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        struct fb_sim_layer *layer = &out->layers[g];
        layer->device_slots = fb_device_slots_of(&slots, group);
        out->n_device_slots += layer->device_slots;
        for (int p = 0; p < group->n_parts; p++) {
            out->device_slot_bytes +=
                (uint64_t)layer->device_slots * ws->weights[group->weight[p]].unit_bytes;
        }
    }
    return FOREBAY_OK;
}

static void describe_memory(
    const struct fb_weights *ws, const struct fb_plan *plan, struct fb_sim_report *out)
{
    out->n_layers = ws->n_groups;
    out->layers = fb_xcalloc((size_t)ws->n_groups, sizeof *out->layers);
    out->shared = plan->shared_slots > 0;
    out->n_slots = plan->shared_slots;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        struct fb_sim_layer *layer = &out->layers[g];
        layer->layer = group->layer;
        layer->slots = plan->slots ? plan->slots[g] : 0;
        for (int p = 0; p < group->n_parts; p++) {
            layer->expert_bytes += ws->weights[group->weight[p]].file_bytes;
        }
        out->n_slots += layer->slots;
        out->n_experts += group->n_expert;
    }
    out->cache_bytes = plan->cache_bytes;
    out->resident_bytes = plan->resident_bytes;
    out->memory_bytes =
        fb_max(plan->total_bytes, plan->total_bytes - plan->lent_bytes + plan->transit_bytes);
}

/* --- The replay ------------------------------------------------------------------------------- */

static enum forebay_status replay(const struct fb_weights *ws, const struct fb_plan *plan,
    const struct fb_trace *trace, const struct fb_sim_options *options, struct fb_sim_report *out,
    struct forebay_error *err)
{
    struct fb_io_virtual disk = {.bytes_per_s = options->disk_bytes_per_s,
        .latency_ns = (uint64_t)(options->latency_s * 1e9)};
    struct fb_stream_options stream_options;
    fb_stream_options_init(&stream_options);
    stream_options.policy = options->policy;
    stream_options.cold = true;
    stream_options.io.method = "sim";
    stream_options.io.virtual_disk = &disk;
    struct fb_stream *stream = NULL;
    enum forebay_status status = fb_stream_new(ws, plan, &stream_options, &stream, err);
    if (status == FOREBAY_OK) {
        status = fb_stream_load(stream, NULL, NULL, err);
    }
    if (status == FOREBAY_OK) {
        status = fb_sim_replay(stream, ws, &disk, trace, options, out->warm_up, out, err);
    }
    fb_stream_free(stream);
    return status;
}

/* --- The optimum ------------------------------------------------------------------------------ */

/* The ids needed in each step by each layer of one pool. */
struct needs {
    struct fb_belady_steps steps;
    size_t *first;
    int *ids;
    int *uses; /* tokens that need it; 0: not counted */
    int *group;
    size_t n;
};

static void add_needs(struct needs *needs, const struct fb_trace *trace, const int *uses, int group,
    int first_id, bool counts)
{
    for (int e = 0; e < trace->n_expert; e++) {
        if (uses[e]) {
            needs->ids[needs->n] = first_id + e;
            needs->uses[needs->n] = counts ? uses[e] : 0;
            needs->group[needs->n++] = group;
        }
    }
    needs->first[++needs->steps.n_steps] = needs->n;
}

/* Groups from .. to-1 share a pool. */
static void collect_needs(struct needs *needs, const struct fb_weights *ws,
    const struct fb_trace *trace, int warm_up, int from, int to)
{
    size_t steps = (size_t)trace->n_tokens * (size_t)(to - from);
    size_t room = steps * (size_t)trace->top_k;
    int *uses = fb_xcalloc((size_t)trace->n_expert, sizeof *uses);
    *needs = (struct needs){.first = fb_xcalloc(steps + 1, sizeof *needs->first),
        .ids = fb_xcalloc(room, sizeof *needs->ids),
        .uses = fb_xcalloc(room, sizeof *needs->uses),
        .group = fb_xcalloc(room, sizeof *needs->group)};
    int decoded = 0;
    struct fb_sim_step step;
    for (int t = 0; t < trace->n_tokens; t += step.n) {
        step = fb_sim_step(trace, t);
        bool counts = !step.prefill && decoded >= warm_up;
        decoded += step.prefill ? 0 : step.n;
        for (int g = from, first_id = 0; g < to; first_id += ws->groups[g++].n_expert) {
            fb_sim_survey(trace, &step, g, uses);
            add_needs(needs, trace, uses, g, first_id, counts);
        }
    }
    for (int g = from; g < to; g++) {
        needs->steps.n_ids += ws->groups[g].n_expert;
    }
    needs->steps.first = needs->first;
    needs->steps.ids = needs->ids;
    free(uses);
}

static void optimum_of_pool(const struct fb_weights *ws, const struct fb_trace *trace, int slots,
    int from, int to, struct fb_sim_report *out)
{
    struct needs needs;
    collect_needs(&needs, ws, trace, out->warm_up, from, to);
    bool *hit = fb_xcalloc(needs.n, sizeof *hit);
    fb_belady(&needs.steps, slots, hit);
    for (size_t i = 0; i < needs.n; i++) {
        struct fb_sim_layer *layer = &out->layers[needs.group[i]];
        uint64_t uses = (uint64_t)needs.uses[i];
        layer->optimum_hits += hit[i] ? uses : 0;
        out->optimum_hits += hit[i] ? uses : 0;
        out->optimum_bytes += !hit[i] && uses ? layer->expert_bytes : 0;
    }
    free(hit);
    free(needs.first);
    free(needs.ids);
    free(needs.uses);
    free(needs.group);
}

/* With the slots of RAM and device together. */
static void optimum(const struct fb_weights *ws, const struct fb_plan *plan,
    const struct fb_trace *trace, struct fb_sim_report *out)
{
    if (plan->shared_slots > 0) {
        int slots = plan->shared_slots + out->n_device_slots;
        optimum_of_pool(ws, trace, slots, 0, ws->n_groups, out);
        return;
    }
    for (int g = 0; g < ws->n_groups; g++) {
        optimum_of_pool(ws, trace, plan->slots[g] + out->layers[g].device_slots, g, g + 1, out);
    }
}

/* --- The simulation --------------------------------------------------------------------------- */

static enum forebay_status choose_warm_up(const struct fb_trace *trace,
    const struct fb_sim_options *options, struct fb_sim_report *out, struct forebay_error *err)
{
    int decoded = trace->n_tokens - trace->n_prefill;
    int quarter = decoded / 4 < WARM_UP_MAX ? decoded / 4 : WARM_UP_MAX;
    out->warm_up = options->warm_up < 0 ? quarter : options->warm_up;
    if (out->warm_up >= decoded && out->warm_up > 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a smaller --warm-up.",
            "--warm-up %d leaves none of the trace's %d decode tokens", out->warm_up, decoded);
    }
    return FOREBAY_OK;
}

static enum forebay_status simulate(const struct fb_subject *subject, const struct fb_trace *trace,
    const struct fb_sim_options *options, struct fb_sim_report *out, struct forebay_error *err)
{
    const struct fb_weights *ws = subject->weights;
    struct fb_plan *plan = NULL;
    enum forebay_status status = check_match(subject, trace, out, err);
    if (status == FOREBAY_OK) {
        status = choose_warm_up(trace, options, out, err);
    }
    if (status == FOREBAY_OK) {
        status = make_plan(ws, trace, options, &plan, err);
    }
    if (status == FOREBAY_OK) {
        out->policy =
            options->policy ? options->policy : fb_stream_default_policy(plan->shared_slots > 0);
        out->disk_bytes_per_s = options->disk_bytes_per_s;
        describe_memory(ws, plan, out);
        status = has_device(options) ? divide_device(ws, options, out, err) : FOREBAY_OK;
    }
    if (status == FOREBAY_OK) {
        status = replay(ws, plan, trace, options, out, err);
    }
    if (status == FOREBAY_OK) {
        optimum(ws, plan, trace, out);
    }
    fb_plan_free(plan);
    return status;
}

/* What a run does not do beside slots on a device cannot be simulated. */
static enum forebay_status check_device(
    const struct fb_sim_options *options, struct forebay_error *err)
{
    if (has_device(options) && (options->repack || options->lookahead > 0)) {
        return fb_fail(err, FOREBAY_E_USAGE, "Leave out one of the two.",
            "--%s does not apply to experts that a device computes",
            options->repack ? "repack" : "lookahead");
    }
    return FOREBAY_OK;
}

enum forebay_status fb_sim_run(const char *model, const char *trace_path,
    const struct fb_sim_options *options, struct fb_sim_report *out, struct forebay_error *err)
{
    struct fb_sim_report report = {0};
    struct fb_subject subject;
    struct fb_trace trace;
    struct fb_trace_part part = {.prefill = options->prefill};
    enum forebay_status status = check_device(options, err);
    if (status == FOREBAY_OK) {
        status = fb_subject_open(model, options->repack, has_device(options), &subject, err);
    }
    if (status != FOREBAY_OK) {
        return status;
    }
    status = fb_trace_read(trace_path, &part, &trace, err);
    if (status == FOREBAY_OK) {
        describe(&subject, model, &trace, &report);
        status = simulate(&subject, &trace, options, &report, err);
        fb_trace_release(&trace);
    }
    fb_subject_release(&subject);
    if (status != FOREBAY_OK) {
        fb_sim_report_release(&report);
    } else {
        *out = report;
    }
    return status;
}

void fb_sim_report_release(struct fb_sim_report *report)
{
    free(report->layers);
    *report = (struct fb_sim_report){0};
}
