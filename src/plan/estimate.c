/*
 * estimate.c - sums up the costs of dense weights and of each group, and overlaps them.
 *
 *      dense_cost, group_cost --> compute, read, unpack --> together (one token) or
 *                                                           estimate_prompt (a batch)
 */
#include "plan/estimate.h"

#include <math.h>

#include "base/units.h"

/* Operations of a layer that are not products with weights (norms, rope, attention, gating,
 * adding), each with a barrier of all threads; counted in graphs of common models. */
#define OPS_PER_LAYER 40
#define PARTS         3
/* Rates where the profile has none for a type. */
#define USUAL_DECODE 8e9
#define USUAL_BATCH  5e10
/* Bytes per second of memory that is touched for the first time (zeroed by the system). */
#define TOUCH 2.5e9
/* The preflight, which probes the disk, and the small parts of llama.cpp's load. */
#define PREPARE_S 0.4

struct rates {
    double decode, batch, experts, unpack;
};

static const struct fb_profile_rate *find(
    const struct fb_speed_inputs *in, const struct fb_tensor *t, bool expert, bool repacked)
{
    const char *type = in->type_name(t->type);
    return expert ? fb_profile_expert_rate(in->profile, type, repacked, in->threads, (int)t->ne[0],
                        (int)t->ne[1], in->weights->catalog->n_expert_used)
                  : fb_profile_rate(in->profile, type, repacked, in->threads);
}

static struct rates rates_of(const struct fb_speed_inputs *in, const struct fb_weight *w)
{
    const struct fb_tensor *t = &in->weights->catalog->tensors[w->tensor];
    const struct fb_profile_rate *expert = w->group >= 0 ? find(in, t, true, w->transformed) : NULL;
    const struct fb_profile_rate *r = find(in, t, false, w->transformed);
    r = r ? r : find(in, t, false, false);
    struct rates rates = {USUAL_DECODE, USUAL_BATCH, USUAL_BATCH, USUAL_DECODE};
    if (r) {
        rates = (struct rates){r->decode, r->batch, r->experts > 0 ? r->experts : r->batch,
            r->unpack > 0 ? r->unpack : r->decode};
    }
    if (expert) {
        rates.decode = expert->decode;
        rates.experts = expert->experts > 0 ? expert->experts : rates.experts;
    }
    return rates;
}

static double elements(const struct fb_speed_inputs *in, const struct fb_weight *w)
{
    const struct fb_tensor *t = &in->weights->catalog->tensors[w->tensor];
    double n = (double)t->ne[0] * (double)t->ne[1] * (double)t->ne[2] * (double)t->ne[3];
    return w->group >= 0 && t->n_expert > 0 ? n / t->n_expert : n;
}

/* Seconds and bytes of a pass, or a part of one. */
struct cost {
    double compute, read, unpack;
    double copy; /* of compute: to a device */
    double read_bytes;
};

/* Dense weights, for `tokens` at once. */
static struct cost dense_cost(const struct fb_speed_inputs *in, double tokens)
{
    struct cost c = {0};
    for (int i = 0; i < in->weights->n_weights; i++) {
        const struct fb_weight *w = &in->weights->weights[i];
        if (w->group >= 0) {
            continue;
        }
        struct rates r = rates_of(in, w);
        c.compute += fmax((double)w->file_bytes / r.decode, tokens * elements(in, w) / r.batch);
        if (in->plan && !in->plan->resident[i]) {
            c.read_bytes += (double)w->file_bytes;
            c.unpack += w->unpack == FB_UNPACK_REPACK ? (double)w->file_bytes / r.unpack : 0;
        }
    }
    c.read = c.read_bytes / in->disk_bytes_per_s;
    c.compute += (double)in->other_bytes / USUAL_DECODE;
    return c;
}

/* Seconds that a device takes for a batch with the dense weights, copying included. */
static double dense_on_device(const struct fb_speed_inputs *in, double tokens)
{
    const char *name = in->devices->prompts;
    const struct fb_profile_device *device = fb_profile_device(in->profile, name);
    double seconds = 0;
    for (int i = 0; i < in->weights->n_weights; i++) {
        const struct fb_weight *w = &in->weights->weights[i];
        double bytes = w->group < 0 ? (double)w->file_bytes : 0;
        double n = w->group < 0 ? tokens * elements(in, w) : 0;
        struct fb_device_rates r =
            fb_estimate_device_rates(in, name, &in->weights->catalog->tensors[w->tensor]);
        seconds += bytes / (device ? device->upload_bytes_per_s : USUAL_DECODE) +
                   fmax(bytes / (r.decode > 0 ? r.decode : USUAL_DECODE),
                       n / (r.batch > 0 ? r.batch : USUAL_BATCH));
    }
    return seconds;
}

/* Share of a group's requests that hit while generating token by token. */
static double hit_rate(const struct fb_speed_inputs *in, int g)
{
    const struct fb_plan *plan = in->plan;
    const struct fb_curve *curve = &in->curves->groups[g];
    if (!plan) {
        return 1;
    }
    if (plan->slots) {
        return curve->hit[plan->slots[g]];
    }
    /* A shared pool with fewer slots than one token needs: each expert is evicted before the next
     * token. */
    double needed = (double)in->weights->n_groups * in->weights->catalog->n_expert_used;
    int share = plan->shared_slots / in->weights->n_groups;
    return plan->shared_slots < needed ? 0 : curve->hit[share];
}

/* Whether a device computes the group's experts, from slots. */
static bool is_slotted(const struct fb_speed_inputs *in, int g)
{
    const struct fb_speed_devices *devices = in->devices;
    int layer = in->weights->groups[g].layer;
    return devices && devices->slotted && layer >= devices->first_layer &&
           layer < devices->end_layer;
}

/* Slots that it has for them beside those in RAM. */
static int device_slots(const struct fb_speed_inputs *in, int g)
{
    return is_slotted(in, g) && !in->devices->slots_shared
               ? fb_device_slots_of(&in->devices->slots, &in->weights->groups[g])
               : 0;
}

/* As group_cost, for a group that a device computes from slots: `copied` experts miss these. */
static struct cost slotted_cost(const struct fb_speed_inputs *in, int g, double needed, double rows,
    double missing, double copied)
{
    const struct fb_group *group = &in->weights->groups[g];
    const char *name = in->devices->slotted;
    const struct fb_profile_device *device = fb_profile_device(in->profile, name);
    struct cost c = {.compute = device ? device->turn_s : 0};
    for (int p = 0; p < group->n_parts; p++) {
        const struct fb_weight *w = &in->weights->weights[group->weight[p]];
        struct fb_device_rates r =
            fb_estimate_device_rates(in, name, &in->weights->catalog->tensors[w->tensor]);
        double bytes = (double)w->file_bytes;
        c.compute += fmax(needed * bytes / (r.decode > 0 ? r.decode : USUAL_DECODE),
            rows * elements(in, w) / (r.batch > 0 ? r.batch : USUAL_BATCH));
        c.copy += copied * bytes / (device ? device->upload_bytes_per_s : USUAL_DECODE);
        c.read_bytes += missing * bytes;
    }
    c.compute += c.copy;
    c.read = c.read_bytes / in->disk_bytes_per_s + fmin(1, missing) * in->disk_latency_s;
    return c;
}

/* The group's experts, in a pass in which `needed` of them compute `rows` rows in all, and
 * `missing` must be read. */
static struct cost group_cost(
    const struct fb_speed_inputs *in, int g, double needed, double rows, double missing)
{
    const struct fb_group *group = &in->weights->groups[g];
    struct cost c = {0};
    for (int p = 0; p < group->n_parts; p++) {
        const struct fb_weight *w = &in->weights->weights[group->weight[p]];
        struct rates r = rates_of(in, w);
        c.compute +=
            fmax(needed * (double)w->file_bytes / r.decode, rows * elements(in, w) / r.experts);
        c.read_bytes += missing * (double)w->file_bytes;
        c.unpack += w->unpack == FB_UNPACK_REPACK ? missing * (double)w->file_bytes / r.unpack : 0;
    }
    c.read = c.read_bytes / in->disk_bytes_per_s + fmin(1, missing) * in->disk_latency_s;
    return c;
}

/* Experts are read part by part (gate, up, down): one is unpacked while the next is read. */
static double pipeline(struct cost experts)
{
    double read = experts.read / PARTS, unpack = experts.unpack / PARTS;
    return read + (PARTS - 1) * fmax(read, unpack) + unpack;
}

/* Dense weights, and the share of the experts that lookahead guesses, are prefetched while
 * everything else goes on; the disk serves both, in bursts. */
static double together(
    const struct fb_speed_inputs *in, struct cost dense, struct cost experts, double fixed)
{
    double burst = fmax(1, in->disk_burst), late = 1 - in->lookahead;
    double work =
        dense.compute + dense.unpack + experts.compute + in->lookahead * experts.unpack + fixed;
    double ahead = (dense.read + in->lookahead * experts.read) / burst;
    struct cost on_demand = {.read = late * experts.read / burst, .unpack = late * experts.unpack};
    return fmax(fmax(ahead, work) + pipeline(on_demand), dense.read + experts.read);
}

static void add(struct cost *sum, struct cost c)
{
    sum->compute += c.compute;
    sum->read += c.read;
    sum->unpack += c.unpack;
    sum->copy += c.copy;
    sum->read_bytes += c.read_bytes;
}

static double op_time(const struct fb_speed_inputs *in)
{
    int n_layer = in->weights->catalog->n_layer - (in->devices ? in->devices->n_layers : 0);
    return n_layer * (double)OPS_PER_LAYER * in->profile->op_s;
}

static void estimate_decode(const struct fb_speed_inputs *in, struct fb_speed *out)
{
    const struct fb_weights *ws = in->weights;
    struct cost dense = dense_cost(in, 1), experts = {0};
    double hits = 0, k_all = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        double k = fmin(ws->catalog->n_expert_used, ws->groups[g].n_expert);
        double hit = hit_rate(in, g);
        hits += k * hit;
        k_all += k;
        int slots = device_slots(in, g);
        if (is_slotted(in, g) && in->devices->slots_shared) {
            add(&experts, slotted_cost(in, g, k, k, k * (1 - hit), 0));
        } else if (slots > 0) {
            const struct fb_curve *curve = &in->curves->groups[g];
            int in_memory = in->plan && in->plan->slots ? in->plan->slots[g] : 0;
            double both = fmax(hit, fb_curve_both(curve, slots, in_memory));
            hits += k * (both - hit);
            add(&experts, slotted_cost(in, g, k, k, k * (1 - both), k * (1 - curve->hit[slots])));
        } else {
            add(&experts, group_cost(in, g, k, k, k * (1 - hit)));
        }
    }
    double ops = op_time(in) + (in->devices ? in->devices->decode_s : 0);
    if (in->compute_s > 0) { /* a measurement beats the model */
        double scale = in->compute_s / (dense.compute + experts.compute + ops);
        dense.compute *= scale;
        experts.compute *= scale;
        ops *= scale;
    }
    ops += in->attention_s;
    ops += (dense.read_bytes + in->lookahead * experts.read_bytes) * in->read_cpu_s;
    double seconds = together(in, dense, experts, ops);
    out->decode_tok_per_s = 1 / seconds;
    out->hit_rate = k_all > 0 ? hits / k_all : 1;
    out->read_s = dense.read + experts.read;
    out->read_bytes = dense.read_bytes + experts.read_bytes;
    out->compute_s = dense.compute + experts.compute + ops;
    out->unpack_s = dense.unpack + experts.unpack;
    out->limit = out->read_s >= out->compute_s && out->read_s >= out->unpack_s ? "the disk"
                 : out->unpack_s > out->compute_s                              ? "repacking"
                                                                               : "computing";
}

/* One full batch. Each needed expert that is absent is read once, prefetched across layers: disk
 * and processors work in parallel from the first layer to the last. */
static void estimate_prompt(const struct fb_speed_inputs *in, struct fb_speed *out)
{
    const struct fb_weights *ws = in->weights;
    double n = in->batch;
    struct cost dense = dense_cost(in, n), experts = {0};
    if (in->devices && in->devices->prompts) {
        dense.compute = dense_on_device(in, n);
    }
    for (int g = 0; g < ws->n_groups; g++) {
        int e = ws->groups[g].n_expert;
        double k = fmin(ws->catalog->n_expert_used, e);
        double needed = e * (1 - pow(1 - k / e, n));
        double present = e;
        if (in->plan) {
            present = in->plan->slots ? in->plan->slots[g]
                                      : (double)in->plan->shared_slots / ws->n_groups;
            present *= 1 - (double)in->plan->lent_bytes / fmax(1, (double)in->plan->cache_bytes);
        }
        int slots = device_slots(in, g);
        double missing = needed * fmax(0, 1 - (present + slots) / e);
        double copied =
            needed * fmax(0, 1 - (in->devices && in->devices->slots_shared ? present : slots) / e);
        add(&experts, is_slotted(in, g) ? slotted_cost(in, g, needed, k * n, missing, copied)
                                        : group_cost(in, g, needed, k * n, missing));
    }
    double compute = dense.compute + experts.compute + op_time(in) * sqrt(n) +
                     in->prompt_attention_s * n + (in->devices ? in->devices->prompt_s : 0);
    if (in->prompt_compute_s > 0) { /* a measurement beats the model */
        compute = in->prompt_compute_s * n;
    }
    double work = compute + dense.unpack + experts.unpack;
    double first =
        experts.read / (fmax(1, ws->n_groups) * PARTS); /* nothing is computed meanwhile */
    double seconds = first + fmax(work, dense.read + experts.read - first);
    out->prompt_tok_per_s = n / seconds;
}

/* Resident weights are read once, and repacked meanwhile; all memory is touched for the first time.
 * llama.cpp reads its own part before that. */
static double load_time(const struct fb_speed_inputs *in)
{
    const struct fb_weights *ws = in->weights;
    const struct fb_plan *plan = in->plan;
    double read_bytes = 0, unpack = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        int n = w->group >= 0 ? ws->groups[w->group].n_expert : 1;
        bool resident = !plan || plan->preload || (w->group < 0 && plan->resident[i]);
        if (resident) {
            double bytes = (double)w->file_bytes * n;
            read_bytes += bytes;
            unpack += w->unpack == FB_UNPACK_REPACK ? bytes / rates_of(in, w).unpack : 0;
        }
    }
    double own = (double)in->unclaimed_bytes;
    double touched = fmax(read_bytes, plan ? (double)plan->total_bytes : 0);
    return own / in->disk_bytes_per_s + fmax(read_bytes / in->disk_bytes_per_s, unpack) +
           (own + touched + (double)in->context_bytes) / TOUCH + PREPARE_S;
}

void fb_estimate(const struct fb_speed_inputs *in, struct fb_speed *out)
{
    *out = (struct fb_speed){0};
    estimate_decode(in, out);
    estimate_prompt(in, out);
    out->load_s = load_time(in);
}
