/*
 * stream.h - residency: makes the weights that a step needs available in memory, in time.
 *
 * A stream owns the memory for weights, the read engine and the cache, and joins them:
 *
 *   dense, kept      loaded once by fb_stream_load, never read again
 *   dense, streamed  read on every pass, in order, through a ring with read-ahead (ring.h)
 *   experts          in slots of a pool; a pass pins what it uses and reads what is missing
 *
 * What a weight looks like in memory is the caller's business: a unit whose arrival is not direct
 * is handed to the `arrive` callback, from the bytes of the file to its place.
 *
 * An expert pass (one layer, one set of experts, some parts of them):
 *
 *      begin: hits pinned, misses get slots and reads ---> wait(part): that part of every expert
 *      is in place ---> ... compute ... ---> end: unpinned
 *
 * Two passes may be open at once (the next one reads while this one is computed with) as long as
 * their experts together fit into the pool: see fb_stream_lease_limit.
 *
 * Invariants (cited by the tests):
 *   S1  A pointer or slot handed out by dense or wait holds exactly the file's bytes (arrived),
 *       until dense_done or end.
 *   S2  A slot that is being read into is pinned, whether or not its pass is still open.
 *   S3  After a failed call nothing is handed out, and the next pass starts clean.
 *   S4  Memory taken never exceeds the plan's total_bytes (plus bookkeeping).
 *
 * Threads: one stream belongs to one thread.
 */
#ifndef FB_STREAM_STREAM_H
#define FB_STREAM_STREAM_H

#include "cache/cache.h"
#include "io/io.h"
#include "model/weights.h"

/* Called for each unit that is read in place, before it is used: `failed` says why its read failed, or
 * is NULL. May put the unit's bytes right; if it returns FOREBAY_OK, they are. `user` is that of
 * fb_unpack_fn. Same thread as the stream, and no computation is under way. */
typedef enum forebay_status (*fb_check_fn)(void *user, int weight, int unit, void *data,
    const struct forebay_error *failed, struct forebay_error *err);

/* Memory for each kind; see plan.h, from which the caller fills it. */
struct fb_stream_config {
    const bool *resident; /* [n_weights] */
    const int *slots;     /* [n_groups], or NULL: */
    int shared_slots;     /* one pool for all groups */
    uint64_t ring_bytes;
    uint64_t staging_bytes;
    uint64_t transit_bytes; /* where a batch's experts pass through; 0: there will be no batches */
    bool preload;           /* there is a slot for every expert: read all before the first token */
    const char *policy;     /* of the cache; NULL: the default */
    fb_check_fn check;      /* may be NULL */
    struct fb_io_options io;
};

/* One unit that has been read: `raw` holds the file's bytes, `dest` is where its form belongs. */
struct fb_unpack {
    int weight;
    const void *raw;
    void *dest;
};
/* Puts n arrivals into place; returns when all are. Same thread as the stream. */
typedef void (*fb_unpack_fn)(void *user, const struct fb_unpack *arrivals, int n);

struct fb_stream;

/* Policy of the cache when none is named; `shared`: one pool for all groups. */
const char *fb_stream_default_policy(bool shared);

/* `weights` must outlive the stream. `arrive` may be NULL when no weight needs more than a copy. */
enum forebay_status fb_stream_new(const struct fb_weights *weights,
    const struct fb_stream_config *config, fb_unpack_fn arrive, void *user, struct fb_stream **out,
    struct forebay_error *err);
void fb_stream_free(struct fb_stream *stream);

/* Reads the dense weights that are kept, experts if they are to be preloaded, and takes the memory for
 * slots meanwhile. Call once, before use. */
enum forebay_status fb_stream_load(struct fb_stream *stream, forebay_progress progress,
    void *progress_user, struct forebay_error *err);

/* --- Dense weights ------------------------------------------------------------------------ */

bool fb_stream_is_resident(const struct fb_stream *stream, int weight);

/* Where a kept weight is; valid until fb_stream_adapt is told that all may go. */
void *fb_stream_resident(const struct fb_stream *stream, int weight);

/* Announces the streamed dense weights of the coming computation in the order of their use. */
void fb_stream_schedule_dense(struct fb_stream *stream, const int *weights, int n);

/* Blocks until the streamed weight is in memory and returns where. One at a time: valid until
 * fb_stream_dense_release. */
enum forebay_status fb_stream_dense_acquire(
    struct fb_stream *stream, int weight, const void **out, struct forebay_error *err);
void fb_stream_dense_release(struct fb_stream *stream);

/* --- Experts ------------------------------------------------------------------------------ */

/* One open pass. Zero it, set nothing; begin fills it, end empties it (and keeps the arrays). */
struct fb_lease {
    int group; /* -1 when not open */
    uint32_t parts;
    int n, cap;
    int *experts;
    int *slots;    /* slots[i] holds experts[i] */
    int next_load; /* reads not issued yet: index into part-major (part, expert) order */
    int n_misses;  /* experts that are read for this pass, or were read ahead for it */
};

/* Most experts that the open passes of this group may have together. */
int fb_stream_lease_limit(const struct fb_stream *stream, int group);

/* Opens a pass over n distinct experts. `uses` counts, per expert, the tokens that need it
 * (requests; NULL: do not count this pass). Reads are issued, nothing is waited for. */
void fb_stream_lease_begin(struct fb_stream *stream, struct fb_lease *pass, int group,
    const int *experts, const int *uses, int n, uint32_t parts);

/* These experts will probably be needed by the group's next pass, the likeliest first. What is
 * missing is read when the disk has nothing better to do, and none of them is evicted for another.
 * Replaces what was foreseen for the group before. Not while a pass of the group is open. */
void fb_stream_prefetch(struct fb_stream *stream, int group, const int *experts, int n);

/* True when the part is in place for every expert of the pass (never blocks). */
bool fb_stream_lease_ready(struct fb_stream *stream, const struct fb_lease *pass, int part);

/* Blocks until it is. */
enum forebay_status fb_stream_lease_wait(
    struct fb_stream *stream, struct fb_lease *pass, int part, struct forebay_error *err);

void fb_stream_lease_end(struct fb_stream *stream, struct fb_lease *pass);
void fb_lease_clear(struct fb_lease *pass); /* frees the arrays of a closed pass */

/* Slot s of the pool that serves the weight begins at base + s * stride; *n_slots of them. */
void *fb_stream_slots(const struct fb_stream *stream, int weight, uint64_t *stride, int *n_slots);

/* Whether the group's expert has all of `parts` in place now. */
bool fb_stream_has(const struct fb_stream *stream, int group, int expert, uint32_t parts);

/* --- Experts of a batch -------------------------------------------------------------------- */

/* A batch may need more experts of a layer than there are slots, or most of those that are not in
 * slots. Then they are used set by set (batch.h), each read once, and read ahead across layers:
 *
 *      expect ---> begin (ids are known) ---> next(part): a set ---> ... compute ... ---> next
 *                                             no more: next(the next part) ... ---> end
 */

struct fb_expert_use; /* transit.h */

/* Whether `tokens` tokens that need n experts of the group do better so: there are not enough slots,
 * or many rows wait for experts that are not in slots. */
bool fb_stream_wants_sets(
    const struct fb_stream *stream, int group, const int *experts, int n, int tokens);

/* Announces the expert matrices of the coming computation in the order of their use. */
void fb_stream_schedule_experts(struct fb_stream *stream, const struct fb_expert_use *uses, int n);

/* Which experts each token uses, token after token. */
struct fb_routes {
    const int *experts; /* [tokens][picks] */
    int tokens, picks;
};

/* Some experts' parts in memory: experts[i] begins at base + index[i] * stride. */
struct fb_set {
    int n;
    const int *experts, *index;
    void *base;
    uint64_t stride;
    int n_index; /* larger than any index */
};

/* Opens the layer of the matrix, the first one of it that will be used. One at a time, and no pass
 * of the group is open. */
void fb_stream_batch_begin(struct fb_stream *stream, int weight, const struct fb_routes *routes);

/* The next set of experts of the matrix, until all that the routes name have been; then set->n is 0.
 * Valid until the next call. Each matrix is gone through once. Blocks while it is read. */
enum forebay_status fb_stream_batch_next(
    struct fb_stream *stream, int weight, struct fb_set *set, struct forebay_error *err);
void fb_stream_batch_end(struct fb_stream *stream); /* if one is open */

/* --- More and less memory ------------------------------------------------------------------ */

/* What can be given back while the model runs: slots of experts, down to two in each pool, and kept
 * dense weights that can be streamed instead. Dense weights go last and come back first. They come
 * back when they are used next. */

/* Memory of these: as planned, and at least. */
uint64_t fb_stream_most(const struct fb_stream *stream);
uint64_t fb_stream_least(const struct fb_stream *stream);

/* Memory of these now, and what they may hold from now on. On any thread. */
uint64_t fb_stream_held(const struct fb_stream *stream);
void fb_stream_set_target(struct fb_stream *stream, uint64_t bytes);

/* Goes as far towards the target as is possible now: pools with an open pass stay, and kept dense
 * weights stay unless `all`, which says that nobody holds a pointer to one, or a taken one. Cheap
 * when there is nothing to do. */
void fb_stream_adapt(struct fb_stream *stream, bool all);

/* Slots of all pools, and dense weights kept, now. */
int fb_stream_n_slots(const struct fb_stream *stream);
uint64_t fb_stream_resident_bytes(const struct fb_stream *stream);

/* --- Both --------------------------------------------------------------------------------- */

/* Lets reads go on: collects completions, issues what is queued. Never blocks; cheap. */
void fb_stream_poll(struct fb_stream *stream);

struct fb_stream_stats {
    uint64_t demand_bytes;        /* file bytes read because they were needed at once */
    uint64_t prefetch_bytes;      /* file bytes read ahead of need */
    uint64_t prefetch_used_bytes; /* of these, used */
    uint64_t expert_bytes;        /* of demand and used prefetch, what was experts */
    uint64_t lookahead_bytes;     /* of these, foreseen */
    uint64_t expert_requests;     /* one expert needed by one token at one layer */
    uint64_t expert_hits;         /* of these, in memory when asked for, and not read for it */
    uint64_t stall_ns;            /* waiting for reads */
    uint64_t prefetch_stall_ns;   /* of it, for reads that had been asked for ahead of need */
    uint64_t unpack_ns;           /* putting what was read into place */
    uint64_t memory_bytes;        /* taken for weights, as planned */
    uint64_t shrinks, grows;      /* times that memory was given back, and taken again */
    struct fb_io_counters io;
    const char *io_method;
};
void fb_stream_stats(const struct fb_stream *stream, struct fb_stream_stats *out);

#endif
