#include "stream/transit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "stream/fifo.h"

#define MAX_ENTRIES 512 /* power of two */
/* Experts of a layer to come are read if at least this share of them will be needed: each that is
 * not costs its bytes, each that is saves its wait while the layer before and attention compute. */
#define FORETELL_SHARE 0.75

struct entry {
    struct fb_io_request request;
    int weight, expert;
    uint64_t start, end; /* bytes of the memory */
    bool ahead;          /* issued before the ids were known */
    bool taken;
    bool over; /* not needed (any more): goes when it is the oldest and no read is under way */
};

/* What is to be issued next; weight -1: nothing. */
struct cursor {
    int weight, expert;
};

enum need { NOT_NEEDED, NEEDED, ISSUED };

struct fb_transit {
    struct fb_unpacker *unpacker;
    struct fb_io_engine *io;
    const struct fb_weights *weights;
    fb_absent_fn absent;
    void *user;
    char *memory;
    uint64_t bytes;
    struct entry entries[MAX_ENTRIES];
    unsigned head, n; /* entries[head % MAX_ENTRIES] is the oldest of n */

    int *after;                 /* [n_weights] which matrix follows which; -1: none, not known */
    struct fb_expert_use *uses; /* [n_weights] as last expected */
    int last_expected;

    int group;                     /* whose ids are known, -1: none */
    uint8_t *needed[FB_MAX_PARTS]; /* [most experts] of its parts (enum need) */
    uint32_t marked;               /* parts of which that is known */
    int *listed, n_listed;         /* experts that were asked for */
    int first_weight;              /* of the group, in the order of use */
    struct cursor own, ahead;      /* in that group; in those that follow */
    int most_experts;
    double share; /* of the experts that uniform routing would use, those that were used */
    struct fb_transit_stats stats;
};

struct fb_transit *fb_transit_new(
    struct fb_unpacker *unpacker, uint64_t bytes, fb_absent_fn absent, void *user)
{
    struct fb_io_engine *io = unpacker->io;
    const struct fb_weights *weights = unpacker->weights;
    void *memory = fb_vm_reserve(bytes, true);
    if (!memory) {
        return NULL;
    }
    if (!fb_io_is_virtual(io)) {
        fb_vm_populate(memory, bytes);
    }
    struct fb_transit *t = fb_xcalloc(1, sizeof *t);
    size_t n = (size_t)weights->n_weights;
    *t = (struct fb_transit){
        .unpacker = unpacker, .io = io, .weights = weights, .absent = absent, .user = user};
    t->memory = memory;
    t->bytes = bytes;
    t->after = fb_xcalloc(n, sizeof *t->after);
    t->uses = fb_xcalloc(n, sizeof *t->uses);
    for (size_t i = 0; i < n; i++) {
        t->after[i] = -1;
    }
    for (int g = 0; g < weights->n_groups; g++) {
        t->most_experts =
            (int)fb_max((uint64_t)t->most_experts, (uint64_t)weights->groups[g].n_expert);
    }
    t->listed = fb_xcalloc((size_t)t->most_experts, sizeof *t->listed);
    for (int p = 0; p < FB_MAX_PARTS; p++) {
        t->needed[p] = fb_xcalloc((size_t)t->most_experts, sizeof *t->needed[p]);
    }
    t->last_expected = t->group = t->own.weight = t->ahead.weight = -1;
    t->share = 1;
    return t;
}

/* --- The ring of entries ------------------------------------------------------------------- */

static struct entry *entry_at(struct fb_transit *t, unsigned i)
{
    return &t->entries[(t->head + i) % MAX_ENTRIES];
}

static int group_of(const struct fb_transit *t, int weight)
{
    return t->weights->weights[weight].group;
}

static bool at_rest(const struct entry *e)
{
    return e->request.state != FB_IO_QUEUED && e->request.state != FB_IO_ACTIVE;
}

/* Frees what is over, from the oldest on. */
static void sweep(struct fb_transit *t)
{
    while (t->n > 0 && entry_at(t, 0)->over && at_rest(entry_at(t, 0))) {
        t->head++;
        t->n--;
    }
}

static void drop(struct fb_transit *t, struct entry *e)
{
    fb_io_cancel(t->io, &e->request); /* if it is in flight, sweep comes back to it */
    e->over = true;
}

static bool issue(struct fb_transit *t, int weight, int expert, bool ahead)
{
    const struct fb_weight *w = &t->weights->weights[weight];
    uint64_t size = fb_weight_envelope(t->weights, weight), start;
    uint64_t first = entry_at(t, 0)->start, end = entry_at(t, t->n - 1)->end;
    if (t->n == MAX_ENTRIES || !fb_fifo_place(t->bytes, t->n == 0, first, end, size, &start)) {
        return false;
    }
    struct entry *e = entry_at(t, t->n++);
    *e = (struct entry){.weight = weight, .expert = expert, .ahead = ahead};
    e->start = start;
    e->end = start + size;
    e->request = (struct fb_io_request){
        .file = fb_weight_file(t->weights, weight),
        .offset = fb_weight_offset(t->weights, weight, expert),
        .length = w->file_bytes,
        .buffer = t->memory + start,
        .priority = FB_IO_DEMAND, /* also ahead: nearly all of it is needed, in this order */
    };
    *(ahead ? &t->stats.prefetch_bytes : &t->stats.demand_bytes) += w->file_bytes;
    fb_io_submit(t->io, &e->request);
    return true;
}

void fb_transit_free(struct fb_transit *t)
{
    if (t) {
        for (unsigned i = 0; i < t->n; i++) {
            drop(t, entry_at(t, i));
        }
        for (unsigned i = 0; i < t->n; i++) {
            if (!at_rest(entry_at(t, i))) {
                fb_io_wait(t->io, &entry_at(t, i)->request, NULL);
            }
        }
        fb_vm_release(t->memory, t->bytes);
        for (int p = 0; p < FB_MAX_PARTS; p++) {
            free(t->needed[p]);
        }
        free(t->listed);
        free(t->uses);
        free(t->after);
        free(t);
    }
}

/* --- Which unit is next -------------------------------------------------------------------- */

static uint8_t *need_of(struct fb_transit *t, int weight, int expert)
{
    return &t->needed[t->weights->weights[weight].part][expert];
}

/* Whether enough of the matrix's experts will be needed to read them before the ids are known. */
static bool is_foretold(const struct fb_transit *t, int weight)
{
    const struct fb_expert_use *use = &t->uses[weight];
    double n = t->weights->groups[group_of(t, weight)].n_expert;
    return (1 - pow(1 - fmin(use->picks, n) / n, use->tokens)) * t->share >= FORETELL_SHARE;
}

static bool wanted(struct fb_transit *t, const struct cursor *c, bool ahead)
{
    if (!ahead) {
        return *need_of(t, c->weight, c->expert) == NEEDED;
    }
    return t->absent(t->user, group_of(t, c->weight), c->expert);
}

/* Moves the cursor to the next unit that is wanted, itself included; false when there is none. */
static bool seek(struct fb_transit *t, struct cursor *c, bool ahead)
{
    while (c->weight >= 0) {
        int group = group_of(t, c->weight), n = t->weights->groups[group].n_expert;
        if (ahead && !is_foretold(t, c->weight)) {
            c->expert = n;
        }
        for (; c->expert < n; c->expert++) {
            if (wanted(t, c, ahead)) {
                return true;
            }
        }
        int next = t->after[c->weight];
        *c = (struct cursor){next >= 0 && (ahead || group_of(t, next) == group) ? next : -1, 0};
    }
    return false;
}

/* Issues reads as far as there is room: first what is known, then what is foretold. */
static void pump(struct fb_transit *t)
{
    sweep(t);
    while (seek(t, &t->own, false)) {
        if (!issue(t, t->own.weight, t->own.expert, false)) {
            return;
        }
        *need_of(t, t->own.weight, t->own.expert) = ISSUED;
    }
    while (seek(t, &t->ahead, true)) {
        if (!issue(t, t->ahead.weight, t->ahead.expert, true)) {
            return;
        }
        t->ahead.expert++;
    }
}

/* Notes that `weight` follows `last`; not where the links of a group would then go in a circle, nor
 * back to an earlier layer: whether another pass follows this one, nobody knows. */
static void link_after(struct fb_transit *t, int last, int weight)
{
    int group = group_of(t, last);
    if (group_of(t, weight) < group) {
        t->after[last] = -1;
        return;
    }
    for (int w = weight; w >= 0 && group_of(t, w) == group; w = t->after[w]) {
        if (w == last) {
            return;
        }
    }
    t->after[last] = weight;
}

static bool has_live(struct fb_transit *t)
{
    unsigned i = 0;
    while (i < t->n && entry_at(t, i)->over) {
        i++;
    }
    return i < t->n;
}

/* --- The group whose ids are known --------------------------------------------------------- */

static void mark_needed(struct fb_transit *t, int weight)
{
    for (int i = 0; i < t->n_listed; i++) {
        *need_of(t, weight, t->listed[i]) = NEEDED;
    }
    t->marked |= 1u << t->weights->weights[weight].part;
}

/* Marks the listed experts as needed for the weight and those of its group that follow. Returns the
 * first weight of a later group. */
static int mark_group(struct fb_transit *t, int weight)
{
    t->marked = 0;
    for (int p = 0; p < FB_MAX_PARTS; p++) {
        memset(t->needed[p], NOT_NEEDED, (size_t)t->most_experts);
    }
    for (int steps = 0; weight >= 0 && group_of(t, weight) == t->group && steps < FB_MAX_PARTS;
         steps++) {
        mark_needed(t, weight);
        weight = t->after[weight];
    }
    return weight >= 0 && group_of(t, weight) > t->group ? weight : -1;
}

/* Of what has been read ahead, keeps what is needed and what belongs to later groups. */
static void sort_out(struct fb_transit *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        struct entry *e = entry_at(t, i);
        int group = group_of(t, e->weight);
        if (e->over || group > t->group) {
            continue;
        }
        if (group == t->group && *need_of(t, e->weight, e->expert) == NEEDED) {
            *need_of(t, e->weight, e->expert) = ISSUED;
        } else {
            drop(t, e);
        }
    }
}

/* Where to go on foretelling: after what has been read of later groups, or at `later`. */
static struct cursor after_youngest(struct fb_transit *t, int later)
{
    for (unsigned i = t->n; i-- > 0;) {
        const struct entry *e = entry_at(t, i);
        if (!e->over && group_of(t, e->weight) > t->group) {
            return (struct cursor){e->weight, e->expert + 1};
        }
    }
    return (struct cursor){later, 0};
}

void fb_transit_need(struct fb_transit *t, int weight, const int *experts, int n, int n_used)
{
    const struct fb_expert_use *use = &t->uses[weight];
    t->group = group_of(t, weight);
    t->first_weight = weight;
    double n_expert = t->weights->groups[t->group].n_expert;
    if (use->tokens > 0) {
        t->share =
            n_used / (n_expert * (1 - pow(1 - fmin(use->picks, n_expert) / n_expert, use->tokens)));
    }
    memcpy(t->listed, experts, (size_t)n * sizeof *experts);
    t->n_listed = n;
    int later = mark_group(t, weight);
    sort_out(t);
    t->own = (struct cursor){weight, 0};
    if (t->ahead.weight < 0 || group_of(t, t->ahead.weight) <= t->group) {
        t->ahead = after_youngest(t, later);
    }
    pump(t);
}

/* Units of the weight that are there, oldest first, at equal distances from the first one. -1: the
 * first one failed. */
static int collect(
    struct fb_transit *t, int weight, struct fb_unit *units, int max, struct forebay_error *err)
{
    uint64_t first = 0, size = fb_weight_envelope(t->weights, weight);
    int n = 0;
    for (unsigned i = 0; i < t->n && n < max; i++) {
        struct entry *e = entry_at(t, i);
        if (e->weight != weight || e->over || e->taken || !at_rest(e)) {
            continue;
        }
        first = n == 0 ? e->start : first;
        if (e->start < first || (e->start - first) % size) {
            break;
        }
        if (fb_unpacker_verify(t->unpacker, &e->request, weight, e->expert, err) != FOREBAY_OK) {
            return n > 0 ? n : -1; /* of those before it first */
        }
        e->taken = true;
        t->stats.prefetch_used_bytes += e->ahead ? e->request.length : 0;
        const char *buffer = e->request.buffer;
        units[n++] = (struct fb_unit){
            .expert = e->expert,
            .raw = buffer + fb_io_delta(e->request.offset),
            .entry = (int)(e - t->entries),
        };
    }
    return n;
}

/* The oldest unit of the weight that is on its way, or failed. */
static struct entry *coming(struct fb_transit *t, int weight)
{
    for (unsigned i = 0; i < t->n; i++) {
        struct entry *e = entry_at(t, i);
        if (e->weight == weight && !e->over && !e->taken) {
            return e;
        }
    }
    return NULL;
}

static bool is_done_with(struct fb_transit *t, int weight)
{
    const uint8_t *needed = t->needed[t->weights->weights[weight].part];
    return !memchr(needed, NEEDED, (size_t)t->most_experts);
}

/* Drops the youngest entry, which will be read again: what is needed at once has no room. That
 * happens when memory was given back, or the order of use was another one than expected. */
static void drop_youngest(struct fb_transit *t)
{
    struct entry *e = entry_at(t, t->n - 1);
    FB_ASSERT(!e->taken);
    if (!e->over && group_of(t, e->weight) > t->group) {
        t->ahead = (struct cursor){e->weight, e->expert};
    } else if (!e->over) {
        *need_of(t, e->weight, e->expert) = NEEDED;
        t->own = (struct cursor){t->first_weight, 0};
    }
    drop(t, e);
    if (!at_rest(e)) {
        fb_io_wait(t->io, &e->request, NULL);
    }
    t->n--;
}

/* Issues one needed unit of the weight, whatever has to go for it. */
static void force(struct fb_transit *t, int weight)
{
    struct cursor c = {weight, 0};
    while (*need_of(t, weight, c.expert) != NEEDED) {
        c.expert++;
    }
    while (!issue(t, weight, c.expert, false)) {
        FB_ASSERT(t->n > 0);
        drop_youngest(t);
    }
    *need_of(t, weight, c.expert) = ISSUED;
}

static void wait_for(struct fb_transit *t, struct entry *e)
{
    uint64_t before = fb_io_now_ns(t->io);
    fb_io_wait(t->io, &e->request, NULL);
    uint64_t waited = fb_io_now_ns(t->io) - before;
    t->stats.stall_ns += waited;
    t->stats.prefetch_stall_ns += e->ahead ? waited : 0;
}

int fb_transit_take(
    struct fb_transit *t, int weight, struct fb_unit *units, int max, struct forebay_error *err)
{
    FB_ASSERT(group_of(t, weight) == t->group);
    if (!(t->marked & 1u << t->weights->weights[weight].part)) { /* nobody expected it */
        mark_needed(t, weight);
        t->own = (struct cursor){weight, 0};
    }
    for (;;) {
        fb_io_poll(t->io);
        pump(t);
        int n = collect(t, weight, units, max, err);
        if (n < 0) {
            fb_transit_finish(t);
        }
        if (n != 0) {
            return n;
        }
        struct entry *e = coming(t, weight);
        if (!e && is_done_with(t, weight)) {
            return 0;
        }
        if (!e) {
            force(t, weight);
        } else {
            wait_for(t, e);
        }
    }
}

void fb_transit_release(struct fb_transit *t, const struct fb_unit *unit)
{
    struct entry *e = &t->entries[unit->entry];
    FB_ASSERT(e->taken);
    e->taken = false;
    e->over = true;
    pump(t);
}

void fb_transit_finish(struct fb_transit *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        if (!entry_at(t, i)->over) {
            drop(t, entry_at(t, i));
            entry_at(t, i)->taken = false;
        }
    }
    sweep(t);
    t->group = t->own.weight = t->ahead.weight = -1;
}

void fb_transit_schedule(struct fb_transit *t, const struct fb_expert_use *uses, int n)
{
    for (int i = 0; i < n; i++) {
        t->uses[uses[i].weight] = uses[i];
        if (t->last_expected >= 0) {
            link_after(t, t->last_expected, uses[i].weight);
        }
        t->last_expected = uses[i].weight;
    }
    if (n > 0 && uses[0].tokens <= 1) { /* no batch: nothing of what a failed one left is wanted */
        fb_transit_finish(t);
    } else if (n > 0 && !has_live(t)) {
        t->ahead = (struct cursor){uses[0].weight, 0};
        pump(t);
    }
}

uint64_t fb_transit_bytes(const struct fb_transit *t)
{
    return t->bytes;
}

const struct fb_transit_stats *fb_transit_stats(const struct fb_transit *t)
{
    return &t->stats;
}
