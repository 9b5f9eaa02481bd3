/*
 * plan.c - places dense weights, then experts, in a budget.
 *
 *      fb_plan_make
 *        place_dense     all resident, or: small ones and the output if affordable, a ring, and an
 *                        evenly spread share of the rest
 *        transit_size    at most 1/16 of what is left
 *        place_experts   a pool per group, filled slot by slot where the gain per byte is largest,
 *                        or one shared pool; with what a batch borrows
 */
#include "plan/plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"

/* Dense weights below this become resident before others: reading one costs a request, not
 * bytes. */
#define SMALL_BYTES (256 * FB_KIB)
/* With room for this many of the largest streamed weight, the disk runs while one is computed
 * with. */
#define RING_DEPTH 3
#define RING_MIN   (32 * FB_MIB)
/* Staging buffers use at most this much memory, unless two buffers need more. */
#define STAGING_MAX (64 * FB_MIB)
/* The transit has room for at least this many units (one is used, one is read), and uses at most
 * 1 / TRANSIT_SHARE of the room and TRANSIT_MAX. */
#define TRANSIT_LEAST 2
#define TRANSIT_SHARE 16
#define TRANSIT_MAX   (128 * FB_MIB)

static int experts_per_token(const struct fb_weights *ws)
{
    int k = ws->catalog->n_expert_used;
    int widest = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        widest = (int)fb_max((uint64_t)widest, (uint64_t)ws->groups[g].n_expert);
    }
    k = k > 2 ? k : 2;
    return k < widest ? k : widest;
}

uint64_t fb_plan_shared_slot_bytes(const struct fb_weights *ws)
{
    uint64_t sum = 0;
    for (int p = 0; p < FB_MAX_PARTS; p++) {
        sum += fb_weights_shared_stride(ws, p);
    }
    return sum;
}

/* Size of a staging buffer for one expert's part; 0 when all are read in place. */
static uint64_t staging_buffer(const struct fb_weights *ws)
{
    uint64_t bytes = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group >= 0 && ws->weights[i].unpack != FB_UNPACK_DIRECT) {
            bytes = fb_max(bytes, fb_weight_envelope(ws, i));
            bytes = fb_max(bytes, fb_round_up(ws->weights[i].stride, FB_BLOCK_BYTES));
        }
    }
    return bytes;
}

/* Memory of one expert's part in the transit. 0 when no layer has more than two experts, because
 * these always have slots. */
static uint64_t transit_unit(const struct fb_weights *ws)
{
    uint64_t bytes = 0;
    int widest = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        widest = ws->groups[g].n_expert > widest ? ws->groups[g].n_expert : widest;
    }
    if (widest <= 2) {
        return 0;
    }
    for (int i = 0; i < ws->n_weights; i++) {
        bytes = ws->weights[i].group >= 0 ? fb_max(bytes, fb_weight_envelope(ws, i)) : bytes;
    }
    return bytes;
}

/* The least memory for streaming the dense weights that are not resident. */
struct dense_needs {
    uint64_t ring;    /* largest of them, as read */
    uint64_t scratch; /* largest of them in its computed form, where that differs */
};

static struct dense_needs dense_needs(const struct fb_weights *ws, const bool *resident)
{
    struct dense_needs needs = {0};
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        if (w->group >= 0 || (resident && resident[i])) {
            continue;
        }
        needs.ring = fb_max(needs.ring, fb_weight_envelope(ws, i));
        if (w->unpack != FB_UNPACK_DIRECT) {
            needs.scratch = fb_max(needs.scratch, w->stride);
        }
    }
    return needs;
}

/* Memory of the slots for one token's experts in a shared pool, or of all experts if that is
 * less. */
static uint64_t slots_minimum(const struct fb_weights *ws)
{
    uint64_t shared = (uint64_t)experts_per_token(ws) * fb_plan_shared_slot_bytes(ws);
    return fb_min(shared, ws->expert_bytes);
}

uint64_t fb_plan_most_transit(const struct fb_weights *ws)
{
    uint64_t unit = transit_unit(ws), most = 0;
    for (int g = 0; g < ws->n_groups && unit > 0; g++) {
        most = fb_max(most, ws->groups[g].slot_bytes * (uint64_t)ws->groups[g].n_expert);
    }
    return fb_round_down(fb_max(fb_min(most, TRANSIT_MAX), TRANSIT_LEAST * unit), FB_BLOCK_BYTES);
}

/* Size of the transit: as large as is useful, but only a part of `room`, since a batch needs it for
 * slots, too. `room` is at least expert_minimum. */
static uint64_t transit_size(const struct fb_weights *ws, uint64_t room)
{
    uint64_t free = room - slots_minimum(ws) - 2 * staging_buffer(ws);
    uint64_t unit = transit_unit(ws);
    if (unit == 0) {
        return 0;
    }
    uint64_t bytes = fb_min(room / TRANSIT_SHARE, fb_plan_most_transit(ws));
    uint64_t staging = staging_buffer(ws) ? fb_max(STAGING_MAX, 2 * staging_buffer(ws)) : 0;
    uint64_t all = ws->expert_bytes + staging;
    if (all < room && bytes > room - all) {
        bytes = room - all; /* every expert has a slot: it is used only when memory gets short */
    }
    return fb_round_down(fb_min(fb_max(bytes, TRANSIT_LEAST * unit), free), FB_BLOCK_BYTES);
}

/* The least memory for slots, staging and transit. */
static uint64_t expert_minimum(const struct fb_weights *ws)
{
    return slots_minimum(ws) + 2 * staging_buffer(ws) + TRANSIT_LEAST * transit_unit(ws);
}

uint64_t fb_plan_minimum(const struct fb_weights *ws)
{
    struct dense_needs needs = dense_needs(ws, NULL);
    return needs.ring + needs.scratch + expert_minimum(ws);
}

/* Makes dense weight i resident if it fits into *room. */
static void make_resident(const struct fb_weights *ws, struct fb_plan *plan, int i, uint64_t *room)
{
    uint64_t bytes = ws->weights[i].stride;
    if (!plan->resident[i] && ws->weights[i].group < 0 && bytes <= *room) {
        plan->resident[i] = true;
        plan->resident_bytes += bytes;
        *room -= bytes;
    }
}

/* Makes weights resident that are expensive to stream: those so small that reading them is all
 * latency, and an output matrix that would need a much larger ring than the layers do. */
static void place_costly(const struct fb_weights *ws, struct fb_plan *plan, uint64_t room)
{
    uint64_t small = room / 4, output = room / 4;
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].stride < SMALL_BYTES) {
            make_resident(ws, plan, i, &small);
        } else if (ws->catalog->tensors[ws->weights[i].tensor].role == FB_ROLE_OUTPUT) {
            make_resident(ws, plan, i, &output);
        }
    }
}

static int by_size_descending(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    if (x[0] != y[0]) {
        return x[0] < y[0] ? 1 : -1;
    }
    return (x[1] > y[1]) - (x[1] < y[1]);
}

/* Fills `room` with dense weights such that the streamed ones are spread evenly over the pass, so
 * that the disk works all the time and not only during some layers. */
static void place_evenly(const struct fb_weights *ws, struct fb_plan *plan, uint64_t room)
{
    uint64_t candidates = ws->dense_bytes - plan->resident_bytes;
    double share = candidates ? (double)room / (double)candidates : 0;
    double credit = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        double bytes = (double)ws->weights[i].stride;
        if (ws->weights[i].group >= 0 || plan->resident[i]) {
            continue;
        }
        credit += share * bytes;
        if (credit >= bytes) {
            make_resident(ws, plan, i, &room);
            credit -= bytes;
        }
    }
    /* The rest of the room: the largest that still fit. */
    uint64_t(*order)[2] = fb_xcalloc((size_t)ws->n_weights, sizeof *order);
    for (int i = 0; i < ws->n_weights; i++) {
        order[i][0] = ws->weights[i].stride;
        order[i][1] = (uint64_t)i;
    }
    qsort(order, (size_t)ws->n_weights, sizeof *order, by_size_descending);
    for (int i = 0; i < ws->n_weights; i++) {
        make_resident(ws, plan, (int)order[i][1], &room);
    }
    free(order);
}

/* Places the dense weights: all resident if they fit into `room`, else an even share and a ring.
 * `room` is at least dense_needs of all of them. While they are loaded, the largest must be read
 * into some memory first; what `budget` has for expert slots serves for that, as those are
 * allocated later. */
static void place_dense(
    const struct fb_weights *ws, struct fb_plan *plan, uint64_t room, uint64_t budget)
{
    if (ws->dense_bytes <= room && ws->dense_bytes + dense_needs(ws, NULL).ring <= budget) {
        place_evenly(ws, plan, room);
        return;
    }
    place_costly(ws, plan, room);
    struct dense_needs needs = dense_needs(ws, plan->resident);
    if (plan->resident_bytes + needs.ring + needs.scratch > room) {
        for (int i = 0; i < ws->n_weights; i++) {
            plan->resident[i] = false;
        }
        plan->resident_bytes = 0;
        needs = dense_needs(ws, NULL);
    }
    room -= plan->resident_bytes + needs.scratch;
    plan->scratch_bytes = needs.scratch;
    plan->ring_bytes = fb_min(fb_max(RING_DEPTH * needs.ring, RING_MIN), room / 4);
    plan->ring_bytes = fb_round_down(fb_max(plan->ring_bytes, needs.ring), FB_BLOCK_BYTES);
    place_evenly(ws, plan, room - plan->ring_bytes);
}

/* Bytes of the file that one expert of the group needs. */
static uint64_t expert_file_bytes(const struct fb_weights *ws, const struct fb_group *group)
{
    uint64_t bytes = 0;
    for (int p = 0; p < group->n_parts; p++) {
        bytes += ws->weights[group->weight[p]].file_bytes;
    }
    return bytes;
}

/* The group in which one more slot saves most reading for its memory; among equals the one with
 * fewer slots. -1: `room` is too small for any. */
static int best_group(const struct fb_weights *ws, const struct fb_plan *plan,
    const struct fb_curves *curves, uint64_t room)
{
    int best = -1;
    double most = -1;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        int n = plan->slots[g];
        if (n == group->n_expert || group->slot_bytes > room) {
            continue;
        }
        double worth = curves->groups[g].gain[n] * (double)expert_file_bytes(ws, group) /
                       (double)group->slot_bytes;
        if (worth > most || (worth == most && n < plan->slots[best])) {
            most = worth;
            best = g;
        }
    }
    return best;
}

/* Places slots in `room`, which is at least slots_minimum also without the `lent` bytes. */
static void place_experts(const struct fb_weights *ws, struct fb_plan *plan,
    const struct fb_curves *curves, uint64_t room, uint64_t lent)
{
    uint64_t k = (uint64_t)experts_per_token(ws);
    uint64_t token_slots = 0; /* memory of the slots that one token needs in every group */
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        token_slots += fb_min(k, (uint64_t)group->n_expert) * group->slot_bytes;
    }
    if (room - lent < token_slots) {
        uint64_t all = 0;
        for (int g = 0; g < ws->n_groups; g++) {
            all += (uint64_t)ws->groups[g].n_expert;
        }
        uint64_t slot_bytes = fb_plan_shared_slot_bytes(ws);
        plan->shared_slots = (int)fb_min(room / slot_bytes, all);
        plan->cache_bytes = (uint64_t)plan->shared_slots * slot_bytes;
        return;
    }
    plan->slots = fb_xcalloc((size_t)ws->n_groups, sizeof *plan->slots);
    for (int g = 0; g < ws->n_groups; g++) {
        plan->slots[g] = (int)fb_min(k, (uint64_t)ws->groups[g].n_expert);
    }
    plan->cache_bytes = token_slots;
    for (int g; (g = best_group(ws, plan, curves, room - plan->cache_bytes)) >= 0;) {
        plan->slots[g]++;
        plan->cache_bytes += ws->groups[g].slot_bytes;
    }
}

/* Divides `room` among staging and slots, and says how much a batch borrows. It has what it needs
 * for itself, `batch_bytes`, and the transit. */
static void place_groups(const struct fb_weights *ws, struct fb_plan *plan,
    const struct fb_curves *curves, uint64_t room, uint64_t batch_bytes)
{
    uint64_t buffer = staging_buffer(ws);
    plan->transit_bytes = transit_size(ws, room - batch_bytes);
    uint64_t lent = batch_bytes + plan->transit_bytes;
    uint64_t wanted = buffer * (uint64_t)experts_per_token(ws) * FB_MAX_PARTS;
    wanted = fb_min(fb_min(wanted, fb_max(STAGING_MAX, 2 * buffer)), (room - lent) / 8);
    wanted = buffer ? fb_round_down(wanted, buffer) : 0;
    plan->staging_bytes = fb_min(fb_max(wanted, 2 * buffer), room - lent - slots_minimum(ws));
    room -= plan->staging_bytes;
    struct fb_curves *prior = curves ? NULL : fb_curves_new(ws, NULL);
    place_experts(ws, plan, curves ? curves : prior, room, lent);
    fb_curves_free(prior);
    plan->lent_bytes = lent - fb_min(lent, room - plan->cache_bytes);
}

enum forebay_status fb_plan_make(const struct fb_weights *ws, uint64_t budget_bytes,
    uint64_t batch_bytes, const struct fb_curves *curves, struct fb_plan **out,
    struct forebay_error *err)
{
    uint64_t minimum = fb_plan_minimum(ws) + batch_bytes;
    if (budget_bytes < minimum) {
        char hint[96];
        unsigned long long kib = fb_round_up(minimum, FB_KIB) / FB_KIB;
        snprintf(hint, sizeof hint, "Give at least %lluK for the weights.", kib);
        return fb_fail(err, FOREBAY_E_NOFIT, hint,
            "the weights need at least %llu KiB of memory, the budget leaves %s", kib,
            FB_SIZE(budget_bytes));
    }
    struct fb_plan *plan = fb_xcalloc(1, sizeof *plan);
    plan->budget_bytes = budget_bytes;
    plan->batch_bytes = batch_bytes;
    plan->n_weights = ws->n_weights;
    plan->n_groups = ws->n_groups;
    plan->resident = fb_xcalloc((size_t)ws->n_weights, sizeof *plan->resident);

    uint64_t room = budget_bytes - batch_bytes;
    place_dense(ws, plan, room - expert_minimum(ws), room);
    uint64_t used = plan->resident_bytes + plan->ring_bytes + plan->scratch_bytes;
    plan->streamed_bytes = ws->dense_bytes - plan->resident_bytes;
    if (ws->n_groups > 0) {
        place_groups(ws, plan, curves, budget_bytes - used, batch_bytes);
    }
    plan->total_bytes = used + plan->staging_bytes + plan->cache_bytes;
    plan->preload = plan->streamed_bytes == 0 &&
                    (ws->n_groups == 0 || (plan->slots && plan->cache_bytes == ws->expert_bytes));
    plan->everything_fits = plan->preload && plan->lent_bytes == 0;
    FB_ASSERT(plan->total_bytes <= budget_bytes);
    *out = plan;
    return FOREBAY_OK;
}

void fb_plan_free(struct fb_plan *plan)
{
    if (plan) {
        free(plan->resident);
        free(plan->slots);
        free(plan);
    }
}
