/*
 * experts.h - slots of experts and the reads that fill them; the half of stream.h that is about
 * experts. Functions correspond one to one to those of stream.h, which states their contracts.
 *
 * A *pool* is slots in memory: one per group, or one that all groups share. Pools are the layers
 * of the cache; in the shared pool, expert e of group g is number first_id[g] + e.
 *
 * A *load* is one read of one part of one expert:
 *
 *      issue --> READING --read done--> (direct: in place)
 *                                   \-> ARRIVED --arrive callback--> in place
 *
 * A load pins its slot until it is in place or has failed (S2).
 * The work is done by loads.c, prefetch.c and leases.c (experts_internal.h).
 */
#ifndef FB_STREAM_EXPERTS_H
#define FB_STREAM_EXPERTS_H

#include "stream/unpack.h"

struct fb_experts;

enum forebay_status fb_experts_new(struct fb_unpacker *unpacker,
    const struct fb_stream_config *config, struct fb_experts **out, struct forebay_error *err);
void fb_experts_free(struct fb_experts *x);

/* Takes the memory for the slots, so that no page is zeroed while generating: begins with it, and
 * returns when all is there. False when `progress` said to stop. */
void fb_experts_touch_memory(struct fb_experts *x);
bool fb_experts_wait_memory(struct fb_experts *x, forebay_progress progress, void *user);

int fb_experts_lease_limit(const struct fb_experts *x, int group);
void fb_experts_begin(struct fb_experts *x, struct fb_lease *pass, int group, const int *experts,
    const int *uses, int n, uint32_t parts);
void fb_experts_prefetch(struct fb_experts *x, int group, const int *experts, int n);
bool fb_experts_ready(struct fb_experts *x, const struct fb_lease *pass, int part);
enum forebay_status fb_experts_wait(
    struct fb_experts *x, struct fb_lease *pass, int part, struct forebay_error *err);
void fb_experts_end(struct fb_experts *x, struct fb_lease *pass);
void *fb_experts_slots(const struct fb_experts *x, int weight, uint64_t *stride, int *n_slots);
bool fb_experts_has(const struct fb_experts *x, int group, int expert, uint32_t parts);

/* Memory of the slots in use now, as planned, and when every pool has the fewest that work. */
uint64_t fb_experts_held(const struct fb_experts *x);
uint64_t fb_experts_most(const struct fb_experts *x);
uint64_t fb_experts_least(const struct fb_experts *x);
int fb_experts_n_slots(const struct fb_experts *x);

/* Gives slots back, or takes them again, so that they hold `bytes`, or a little less. Pools with an
 * open pass are left as they are, and slots that are being read into stay (with those before them). */
void fb_experts_resize(struct fb_experts *x, uint64_t bytes);

/* True when every pool has the slots that `bytes` comes to. */
bool fb_experts_settled(const struct fb_experts *x, uint64_t bytes);

/* --- For batches (batch.h) ---------------------------------------------------------------- */

/* Where the cache keeps the group: expert e is number first_id + e of its layer. */
struct fb_experts_cache {
    struct fb_cache *cache;
    int layer, first_id;
    bool shared; /* with other groups */
};
struct fb_experts_cache fb_experts_cache(const struct fb_experts *x, int group);

/* Between the two, the group's pool keeps its size. What was foreseen for the group and has arrived
 * is put into place; the rest is not read any more. */
void fb_experts_hold(struct fb_experts *x, int group);
void fb_experts_release(struct fb_experts *x, int group);

/* The slot that has all parts of the expert, which is now used, or -1. *ahead: it was foreseen. */
int fb_experts_claim(struct fb_experts *x, int group, int expert, bool *ahead);

/* An empty slot that is the expert's from now on; -1: all are pinned. */
int fb_experts_acquire(struct fb_experts *x, int group, int expert);

/* Counts requests and, of them, hits. */
void fb_experts_count(struct fb_experts *x, uint64_t requests, uint64_t hits);

/* The staging memory, for the caller's use until the next pass begins. */
char *fb_experts_staging(struct fb_experts *x, uint64_t *bytes);

/* Adds this half's figures to *out. */
void fb_experts_stats(const struct fb_experts *x, struct fb_stream_stats *out);

#endif
