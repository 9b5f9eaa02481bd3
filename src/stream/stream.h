/*
 * stream.h - makes the weights that a computation needs present in memory, in time.
 *
 * A stream owns the memory for weights, the I/O engine and the cache. It is used through this
 * header and those included below:
 *
 *      dense.h      weights that every token needs: resident, or streamed through the ring
 *      leases.h     the experts of one layer while they are in use, all at once ...
 *      sets.h       ... or, for a batch that needs too many, set by set
 *      prefetch.h   experts that will probably be needed next
 *      adapt.h      giving memory back and regaining it
 *
 * Behind them, a file for each component, from the bottom up:
 *
 *      unpack       from the file's bytes to the computed form      everything below reads with it
 *      ring         streamed dense weights in the order of their use
 *      transit      experts of a batch on their way through memory
 *      pool, slots  memory of slots, and which expert is in which
 *      loads        reads into slots
 *      components   all of these in one struct: the stream
 *
 * The layout of a computed form is the caller's business: a unit that is not DIRECT is handed to
 * the `unpack` callback, from the file's bytes to its place.
 *
 * Invariants (cited by the tests):
 *   S1  A pointer or slot handed out by acquire or wait holds exactly the file's bytes, unpacked,
 *       until release or end.
 *   S2  A slot that is being read into is pinned, whether or not its lease is still open.
 *   S3  After a failed call nothing is handed out, and the next lease starts clean.
 *   S4  Memory never exceeds the plan's total_bytes (plus bookkeeping).
 *
 * Threads: one thread at a time may call a stream's functions, except fb_stream_held and
 * fb_stream_set_target, which any thread may call at any time.
 */
#ifndef FB_STREAM_STREAM_H
#define FB_STREAM_STREAM_H

#include "plan/plan.h"
#include "stream/adapt.h"
#include "stream/dense.h"
#include "stream/leases.h"
#include "stream/prefetch.h"
#include "stream/sets.h"
#include "stream/stats.h"

struct fb_pool_holder;
struct fb_stream;

/* Settings of a stream, besides weights and plan. */
struct fb_stream_options {
    const char *policy; /* of the cache; NULL: fb_stream_default_policy */
    bool cold; /* leave slots empty even if every expert has one; else they are preloaded */
    fb_unpack_fn unpack; /* NULL: no weight is REPACK */
    fb_check_fn check;   /* may be NULL */
    void *user;          /* of unpack and check */
    struct fb_io_options io;
};

/* Everything NULL or false; fb_io_options_init for io. */
void fb_stream_options_init(struct fb_stream_options *options);

/* Policy of the cache when none is named; `shared`: one pool for all groups. */
const char *fb_stream_default_policy(bool shared);

/* Reserves address space for everything in the plan. `weights` must outlive the stream; plan and
 * options are copied. E_USAGE for an unknown policy or I/O method, E_NOMEM. */
enum forebay_status fb_stream_new(const struct fb_weights *weights, const struct fb_plan *plan,
    const struct fb_stream_options *options, struct fb_stream **out, struct forebay_error *err);
void fb_stream_free(struct fb_stream *s); /* NULL is fine */

/* Reads the resident weights, and all experts if they are to be preloaded, and allocates the memory
 * of slots meanwhile. Heeds fb_stream_set_target: slots and weights that there is no memory for are
 * not filled. Call once, before use. Blocks; `progress` may be NULL, and cancels
 * (E_CANCELLED) by returning false. After a failure the stream can only be freed. */
enum forebay_status fb_stream_load(
    struct fb_stream *s, forebay_progress progress, void *progress_user, struct forebay_error *err);

/* --- Experts ---------------------------------------------------------------------------------- */

/* The expert matrices of the next computation, in the order of their use. Lends memory to the
 * transit if it may be needed, and begins to read. */
void fb_stream_schedule_experts(struct fb_stream *s, const struct fb_expert_use *uses, int n);

/* Opens the layer of the matrix `weight` (the first one of the layer that is used) for the tokens
 * of `routes`, in one of two ways. True: together, `lease` is open on all parts. False: in sets,
 * use fb_stream_sets_next; this needs a transit. Sets are chosen when there are not enough slots,
 * or when the batch has many rows and some of its experts are absent. */
bool fb_stream_layer_begin(
    struct fb_stream *s, struct fb_lease *lease, int weight, const struct fb_routes *routes);

/* Slot k of the pool that serves the weight begins at the result + k * *stride; *n_slots of them.
 * Valid until the pool is resized, which does not happen while a lease of the group is open. */
void *fb_stream_slots(const struct fb_stream *s, int weight, uint64_t *stride, int *n_slots);

/* The pool that serves the group. */
int fb_stream_pool(const struct fb_stream *s, int group);

/* From now on all pools have this holder (pool.h), or none (NULL). It must outlive the stream, or
 * its replacement. */
void fb_stream_set_holder(struct fb_stream *s, const struct fb_pool_holder *holder);

/* Whether the group's expert has all of `parts` present now. */
bool fb_stream_has(const struct fb_stream *s, int group, int expert, uint32_t parts);

/* --- Both ------------------------------------------------------------------------------------- */

/* Memory of all that the stream holds when nothing is given back. */
uint64_t fb_stream_planned(const struct fb_stream *s);

/* Memory of all that it holds now. */
uint64_t fb_stream_now(const struct fb_stream *s);

/* Advances reads: collects completions and issues queued ones. Never blocks; cheap. */
void fb_stream_poll(struct fb_stream *s);

void fb_stream_stats(const struct fb_stream *s, struct fb_stream_stats *out);

#endif
