/*
 * transit.c - entries in the order of their use, two cursors that issue reads, and the units that
 * are needed.
 *
 *      entries   a ring: [head .. head + n), oldest first; memory in the same order (fifo.h). An
 *                entry that is `over` is freed when it is the oldest and its read has ended.
 *      after     which matrix follows which, learned from fb_transit_schedule:
 *                  3.gate -> 3.up -> 3.down -> 4.gate -> ...
 *      needed    for the group whose ids are known, by part and expert:
 *                  NOT_NEEDED, or NEEDED --issued--> ISSUED
 *      own       cursor over (matrix, expert) of that group: what is NEEDED is read
 *      prefetch  cursor over later groups: absent experts are prefetched
 *
 * pump() advances `own` as far as there is room, and only when that has nothing left, `prefetch`.
 * fb_transit_need turns the prefetches of a group into its own reads: entries that are needed
 * become ISSUED, the others are dropped. Room for a unit that is needed now is made by dropping the
 * youngest entries (force); their reads are repeated later.
 */
#include "stream/transit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "stream/fifo.h"

#define MAX_ENTRIES 512 /* power of two */
/* A later layer's experts are prefetched if at least this share of them will be needed: each that
 * is not costs its bytes, each that is saves its wait while earlier layers and attention compute.
 * */
#define PREFETCH_SHARE 0.75

struct transit_entry {
    struct fb_io_request request;
    int weight, expert;
    uint64_t start, end; /* bytes of the memory */
    bool prefetched;     /* issued before the ids were known */
    bool acquired;
    bool over; /* not needed (any more): freed when it is the oldest and its read has ended */
};

/* The next read to issue; weight -1: none. */
struct transit_cursor {
    int weight, expert;
};

enum transit_need { NOT_NEEDED, NEEDED, ISSUED };

struct fb_transit {
    struct fb_unpacker *unpacker;
    struct fb_io_engine *io;
    const struct fb_weights *weights;
    fb_absent_fn absent;
    void *user;
    char *memory;
    uint64_t bytes;
    struct transit_entry entries[MAX_ENTRIES];
    unsigned head, n; /* entries[head % MAX_ENTRIES] is the oldest of n */

    int *after;                 /* [n_weights] which matrix follows which; -1: none, not known */
    struct fb_expert_use *uses; /* [n_weights] as last scheduled */
    int last_scheduled;

    int group;                           /* whose ids are known, -1: none */
    uint8_t *needed[FB_MAX_PARTS];       /* [most_experts] enum transit_need */
    uint32_t marked;                     /* parts whose `needed` is filled */
    int *listed, n_listed;               /* experts given to fb_transit_need */
    int first_weight;                    /* of the group, in the order of use */
    struct transit_cursor own, prefetch; /* see above */
    int most_experts;
    double share; /* experts used at the last layer, as a share of those of uniform routing */
    struct fb_stream_stats stats;
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
    struct fb_transit *t = fb_xcalloc(1, sizeof *t);
    size_t n = (size_t)weights->n_weights;
    t->unpacker = unpacker;
    t->io = io;
    t->weights = weights;
    t->absent = absent;
    t->user = user;
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
    t->last_scheduled = t->group = t->own.weight = t->prefetch.weight = -1;
    t->share = 1;
    return t;
}

/* --- The ring of entries ---------------------------------------------------------------------- */

static struct transit_entry *entry_at(struct fb_transit *t, unsigned i)
{
    return &t->entries[(t->head + i) % MAX_ENTRIES];
}

static int group_of(const struct fb_transit *t, int weight)
{
    return t->weights->weights[weight].group;
}

static bool at_rest(const struct transit_entry *e)
{
    return e->request.state != FB_IO_QUEUED && e->request.state != FB_IO_ACTIVE;
}

/* Frees entries that are over, oldest first. */
static void sweep(struct fb_transit *t)
{
    while (t->n > 0 && entry_at(t, 0)->over && at_rest(entry_at(t, 0))) {
        t->head++;
        t->n--;
    }
}

static void drop(struct fb_transit *t, struct transit_entry *e)
{
    fb_io_cancel(t->io, &e->request); /* if it is in flight, sweep frees it later */
    e->over = true;
}

static bool issue(struct fb_transit *t, int weight, int expert, bool prefetch)
{
    const struct fb_weight *w = &t->weights->weights[weight];
    uint64_t size = fb_weight_envelope(t->weights, weight), start;
    uint64_t first = entry_at(t, 0)->start, end = entry_at(t, t->n - 1)->end;
    if (t->n == MAX_ENTRIES || !fb_fifo_place(t->bytes, t->n == 0, first, end, size, &start)) {
        return false;
    }
    struct transit_entry *e = entry_at(t, t->n++);
    *e = (struct transit_entry){.weight = weight, .expert = expert, .prefetched = prefetch};
    e->start = start;
    e->end = start + size;
    e->request = (struct fb_io_request){
        .file = fb_weight_file(t->weights, weight),
        .offset = fb_weight_offset(t->weights, weight, expert),
        .length = w->file_bytes,
        .buffer = t->memory + start,
        .priority = FB_IO_DEMAND, /* prefetches too: most are needed, in order */
    };
    *(prefetch ? &t->stats.prefetch_bytes : &t->stats.demand_bytes) += w->file_bytes;
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

/* --- Which unit is next ----------------------------------------------------------------------- */

static uint8_t *need_of(struct fb_transit *t, int weight, int expert)
{
    return &t->needed[t->weights->weights[weight].part][expert];
}

/* Whether enough of the matrix's experts will be needed to read them before the ids are known. */
static bool is_worth_prefetching(const struct fb_transit *t, int weight)
{
    const struct fb_expert_use *use = &t->uses[weight];
    double n = t->weights->groups[group_of(t, weight)].n_expert;
    return (1 - pow(1 - fmin(use->picks, n) / n, use->tokens)) * t->share >= PREFETCH_SHARE;
}

static bool wanted(struct fb_transit *t, const struct transit_cursor *c, bool prefetch)
{
    if (!prefetch) {
        return *need_of(t, c->weight, c->expert) == NEEDED;
    }
    return t->absent(t->user, group_of(t, c->weight), c->expert);
}

/* Moves the cursor to the next unit that is wanted, itself included; false when there is none. */
static bool seek(struct fb_transit *t, struct transit_cursor *c, bool prefetch)
{
    while (c->weight >= 0) {
        int group = group_of(t, c->weight), n = t->weights->groups[group].n_expert;
        if (prefetch && !is_worth_prefetching(t, c->weight)) {
            c->expert = n;
        }
        for (; c->expert < n; c->expert++) {
            if (wanted(t, c, prefetch)) {
                return true;
            }
        }
        int next = t->after[c->weight];
        *c = (struct transit_cursor){
            next >= 0 && (prefetch || group_of(t, next) == group) ? next : -1, 0};
    }
    return false;
}

/* Issues reads as far as there is room: those known to be needed first, then prefetches. */
static void pump(struct fb_transit *t)
{
    sweep(t);
    while (seek(t, &t->own, false)) {
        if (!issue(t, t->own.weight, t->own.expert, false)) {
            return;
        }
        *need_of(t, t->own.weight, t->own.expert) = ISSUED;
    }
    while (seek(t, &t->prefetch, true)) {
        if (!issue(t, t->prefetch.weight, t->prefetch.expert, true)) {
            return;
        }
        t->prefetch.expert++;
    }
}

/* Notes that `weight` follows `last`, unless that would close a circle within a group. A weight of
 * an earlier layer begins another pass, which may never happen: then nothing follows `last`. */
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

/* --- The group whose ids are known ------------------------------------------------------------ */

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

/* Keeps the prefetched entries that are needed or belong to later groups, and drops the others. */
static void keep_needed(struct fb_transit *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        struct transit_entry *e = entry_at(t, i);
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

/* Where prefetching continues: after the youngest entry of a later group, or at `later`. */
static struct transit_cursor after_youngest(struct fb_transit *t, int later)
{
    for (unsigned i = t->n; i-- > 0;) {
        const struct transit_entry *e = entry_at(t, i);
        if (!e->over && group_of(t, e->weight) > t->group) {
            return (struct transit_cursor){e->weight, e->expert + 1};
        }
    }
    return (struct transit_cursor){later, 0};
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
    keep_needed(t);
    t->own = (struct transit_cursor){weight, 0};
    if (t->prefetch.weight < 0 || group_of(t, t->prefetch.weight) <= t->group) {
        t->prefetch = after_youngest(t, later);
    }
    pump(t);
}

/* Acquires units of the weight that were read, oldest first, at multiples of their size from the
 * first. Returns their number; -1: the first one failed. */
static int collect(
    struct fb_transit *t, int weight, struct fb_unit *units, int max, struct forebay_error *err)
{
    uint64_t first = 0, size = fb_weight_envelope(t->weights, weight);
    int n = 0;
    for (unsigned i = 0; i < t->n && n < max; i++) {
        struct transit_entry *e = entry_at(t, i);
        if (e->weight != weight || e->over || e->acquired || !at_rest(e)) {
            continue;
        }
        first = n == 0 ? e->start : first;
        if (e->start < first || (e->start - first) % size) {
            break;
        }
        if (fb_unpacker_verify(t->unpacker, &e->request, weight, e->expert, err) != FOREBAY_OK) {
            return n > 0 ? n : -1; /* the units before it are used first */
        }
        e->acquired = true;
        t->stats.prefetch_used_bytes += e->prefetched ? e->request.length : 0;
        const char *buffer = e->request.buffer;
        units[n++] = (struct fb_unit){
            .expert = e->expert,
            .raw = buffer + fb_io_delta(e->request.offset),
            .entry = (int)(e - t->entries),
        };
    }
    return n;
}

/* The oldest entry of the weight that was not acquired: being read, or failed. */
static struct transit_entry *pending(struct fb_transit *t, int weight)
{
    for (unsigned i = 0; i < t->n; i++) {
        struct transit_entry *e = entry_at(t, i);
        if (e->weight == weight && !e->over && !e->acquired) {
            return e;
        }
    }
    return NULL;
}

static bool is_exhausted(struct fb_transit *t, int weight)
{
    const uint8_t *needed = t->needed[t->weights->weights[weight].part];
    return !memchr(needed, NEEDED, (size_t)t->most_experts);
}

/* Drops the youngest entry, which will be read again, because a unit that is needed now has no
 * room. That happens when the unit's expert lost its slot after prefetching had passed it, or when
 * the order of use is not the one scheduled. */
static void drop_youngest(struct fb_transit *t)
{
    struct transit_entry *e = entry_at(t, t->n - 1);
    FB_ASSERT(!e->acquired);
    if (!e->over && group_of(t, e->weight) > t->group) {
        t->prefetch = (struct transit_cursor){e->weight, e->expert};
    } else if (!e->over) {
        *need_of(t, e->weight, e->expert) = NEEDED;
        t->own = (struct transit_cursor){t->first_weight, 0};
    }
    drop(t, e);
    if (!at_rest(e)) {
        fb_io_wait(t->io, &e->request, NULL);
    }
    t->n--;
}

/* Issues one needed unit of the weight, dropping younger entries as necessary. */
static void force(struct fb_transit *t, int weight)
{
    struct transit_cursor c = {weight, 0};
    while (*need_of(t, weight, c.expert) != NEEDED) {
        c.expert++;
    }
    while (!issue(t, weight, c.expert, false)) {
        FB_ASSERT(t->n > 0);
        drop_youngest(t);
    }
    *need_of(t, weight, c.expert) = ISSUED;
}

static void wait_for(struct fb_transit *t, struct transit_entry *e)
{
    uint64_t before = fb_io_now_ns(t->io);
    fb_io_wait(t->io, &e->request, NULL);
    uint64_t waited = fb_io_now_ns(t->io) - before;
    t->stats.stall_ns += waited;
    t->stats.prefetch_stall_ns += e->prefetched ? waited : 0;
}

int fb_transit_acquire(
    struct fb_transit *t, int weight, struct fb_unit *units, int max, struct forebay_error *err)
{
    FB_ASSERT(group_of(t, weight) == t->group);
    if (!(t->marked & 1u << t->weights->weights[weight].part)) { /* it was not scheduled */
        mark_needed(t, weight);
        t->own = (struct transit_cursor){weight, 0};
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
        struct transit_entry *e = pending(t, weight);
        if (!e && is_exhausted(t, weight)) {
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
    struct transit_entry *e = &t->entries[unit->entry];
    FB_ASSERT(e->acquired);
    e->acquired = false;
    e->over = true;
    pump(t);
}

void fb_transit_finish(struct fb_transit *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        if (!entry_at(t, i)->over) {
            drop(t, entry_at(t, i));
            entry_at(t, i)->acquired = false;
        }
    }
    sweep(t);
    t->group = t->own.weight = t->prefetch.weight = -1;
}

void fb_transit_schedule(
    struct fb_transit *t, const struct fb_expert_use *uses, int n, bool prefetch)
{
    for (int i = 0; i < n; i++) {
        t->uses[uses[i].weight] = uses[i];
        if (t->last_scheduled >= 0) {
            link_after(t, t->last_scheduled, uses[i].weight);
        }
        t->last_scheduled = uses[i].weight;
    }
    if (n > 0 && !prefetch) { /* no batch: drop the rest of a failed one */
        fb_transit_finish(t);
    } else if (n > 0 && !has_live(t)) {
        t->prefetch = (struct transit_cursor){uses[0].weight, 0};
        pump(t);
    }
}

uint64_t fb_transit_bytes(const struct fb_transit *t)
{
    return t->bytes;
}

void fb_transit_populate(struct fb_transit *t)
{
    if (!fb_io_is_virtual(t->io)) {
        fb_vm_populate(t->memory, t->bytes);
    }
}

void fb_transit_discard(struct fb_transit *t)
{
    if (!fb_io_is_virtual(t->io)) {
        fb_vm_discard(t->memory, t->bytes);
    }
}

const struct fb_stream_stats *fb_transit_stats(const struct fb_transit *t)
{
    return &t->stats;
}
