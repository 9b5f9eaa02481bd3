/*
 * backend.c - the life of a binding: bound to a model, planned, started, freed.
 *
 *      budget of the process
 *      [ resident set | buffers to come | batches | slack | weights: what the plan may use ]
 *        llama.cpp's    pending_bytes     gather.h
 *
 * When it starts, the stream gets two callbacks: one that unpacks units on the workers of the
 * newest context, and, with a sidecar, one that checks units that were read from it (records.h).
 */
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/batch.h"
#include "backend/binding.h"
#include "backend/device.h"
#include "backend/memory_watch.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/memory.h"

/* How much larger the resident set of the next run may be than that of this one: 11 MiB, as seen
 * once under a memory limit. */
#define UNSURE_BYTES (16 * FB_MIB)

void fb_device_register(void)
{
    if (!fb_device.registered) {
        fb_device.registered = true;
        ggml_backend_register(fb_device_reg());
    }
}

struct fb_binding *fb_binding_new(const struct fb_catalog *catalog, bool repack, bool measuring)
{
    FB_ASSERT(!fb_device.bound);
    struct fb_binding *b = fb_xcalloc(1, sizeof *b);
    b->catalog = catalog;
    b->repack = repack;
    b->measuring = measuring;
    b->lookahead_depth = 1;
    b->lookahead_recall = 1;
    atomic_flag_clear(&b->computing);
    b->claims = fb_xcalloc((size_t)catalog->n_tensors, sizeof *b->claims);
    fb_cpu_use_read(&b->cpu_use);
    fb_device.bound = b;
    return b;
}

void fb_binding_beside_device(struct fb_binding *b)
{
    b->beside_device = true;
}

void fb_binding_give_gpu(struct fb_binding *b, int first_layer, int end_layer)
{
    b->gpu_first_layer = first_layer;
    b->gpu_end_layer = end_layer;
}

void fb_binding_share_slots(struct fb_binding *b)
{
    b->shares_slots = true;
}

void fb_binding_give_prompts(struct fb_binding *b)
{
    FB_ASSERT(!b->repack);
    b->gives_prompts = true;
}

ggml_backend_buffer_type_t fb_device_gpu_buffers(void)
{
    return &fb_device.gpu_buft;
}

void fb_binding_use_sidecar(struct fb_binding *b, struct fb_sidecar *sidecar)
{
    FB_ASSERT(!b->weights);
    b->records.sidecar = sidecar;
}

void fb_binding_free(struct fb_binding *b)
{
    if (!b) {
        return;
    }
    fb_memory_watch_stop(b->memory_watch);
    fb_stream_free(b->stream);
    fb_weights_free(b->weights);
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        fb_form_release(&b->claims[i].form);
    }
    free(b->claims);
    if (fb_device.bound == b) {
        fb_device.bound = NULL;
    }
    free(b);
}

/* --- When the model is loaded ---------------------------------------------------------------- */

const struct fb_weights *fb_binding_weights(struct fb_binding *b)
{
    fb_binding_close(b);
    return b->weights;
}

uint64_t fb_binding_sidecar_bytes(struct fb_binding *b)
{
    const struct fb_weights *ws = fb_binding_weights(b);
    uint64_t bytes = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        int n = w->group >= 0 ? ws->groups[w->group].n_expert : 1;
        bytes += w->file ? w->unit_bytes * (uint64_t)n : 0;
    }
    return bytes;
}

void fb_binding_form(struct fb_binding *b, int weight, struct fb_sidecar_form *out)
{
    fb_records_form(&b->records, &b->claims[b->weights->weights[weight].tensor].form, out);
}

/* Memory of the machine and its containers that weights can use, when other needs will use `rest`
 * more. A budget is a ceiling: it does not make memory. */
static uint64_t available_for_weights(uint64_t rest)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t reserve = fb_memory_reserve(&state), headroom = fb_memory_headroom(&state);
    uint64_t promised = fb_vm_promised();
    headroom -= fb_min(headroom, rest + reserve + reserve / 2);
    return fb_min(headroom, promised - fb_min(promised, rest));
}

/* Memory beside the weights that are planned, of which the process has `now_bytes` already. */
static uint64_t other_bytes(
    const struct fb_binding *b, const struct fb_budget *budget, uint64_t now_bytes)
{
    return now_bytes + b->lending.results_bytes + budget->results_bytes + budget->pending_bytes +
           fb_moe_batch_bytes(b, budget->ctx, budget->batch) + FB_PROCESS_SLACK_BYTES;
}

/* Of these, what only a batch needs; *own_bytes: what it leaves of the intermediate results. */
static uint64_t batch_bytes(
    const struct fb_binding *b, const struct fb_budget *budget, uint64_t *own_bytes)
{
    uint64_t results = b->lending.results_bytes + budget->results_bytes;
    bool lent = b->weights->n_groups > 0 && !budget->weights_bytes && budget->rows > 0;
    *own_bytes = results;
    if (!lent || budget->rows >= budget->batch) {
        return 0;
    }
    *own_bytes = fb_lending_own(results, budget->batch, budget->rows);
    return results - *own_bytes + fb_moe_batch_bytes(b, budget->ctx, budget->batch) -
           fb_moe_batch_bytes(b, budget->ctx, budget->rows) +
           (budget->settles ? FB_PROCESS_SLACK_BYTES : 0);
}

uint64_t fb_binding_minimum(
    struct fb_binding *b, const struct fb_budget *budget, uint64_t own_bytes)
{
    uint64_t weights = fb_plan_minimum(fb_binding_weights(b));
    return fb_round_up(other_bytes(b, budget, own_bytes) + weights, FB_MIB);
}

static enum forebay_status fail_budget(
    uint64_t process_bytes, uint64_t least, uint64_t weights, struct forebay_error *err)
{
    char hint[sizeof err->hint];
    unsigned long long mib = least / FB_MIB;
    snprintf(hint, sizeof hint,
        fb_device.hooks ? "Set FOREBAY_MEM to at least %lluM."
                        : "Give at least --mem %lluM, or a smaller --ctx or --batch.",
        mib);
    return fb_fail(err, FOREBAY_E_NOFIT, hint,
        "a budget of %s is too small: the model needs at least %llu MiB (the context and llama.cpp "
        "%s, the weights %s)",
        FB_SIZE(process_bytes), mib, FB_SIZE(least - weights), FB_SIZE(weights));
}

/* There is less memory than the budget allows, and less than is needed. */
static enum forebay_status fail_memory(uint64_t usable, uint64_t least, struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_NOFIT,
        "Free some memory, or raise the container's limit; or give a smaller --ctx or --batch.",
        "the model needs at least %llu MiB, and only %llu MiB can be used: the rest of the memory "
        "(of this machine or container) is in use or in reserve",
        (unsigned long long)(least / FB_MIB), (unsigned long long)(usable / FB_MIB));
}

enum forebay_status fb_binding_plan(struct fb_binding *b, const struct fb_budget *budget,
    struct fb_plan **out, uint64_t *held_bytes, struct forebay_error *err)
{
    const struct fb_weights *weights = fb_binding_weights(b);
    uint64_t rss = fb_memory_rss();
    uint64_t held = other_bytes(b, budget, rss), minimum = fb_plan_minimum(weights);
    uint64_t room = budget->weights_bytes, least = budget->minimum_bytes;
    uint64_t own_bytes, lent = batch_bytes(b, budget, &own_bytes);
    least = least ? least : fb_round_up(held + minimum + UNSURE_BYTES, FB_MIB);
    *held_bytes = held - lent;
    if (room == 0) {
        /* A budget that was said to suffice does, even if the process is a little larger now. */
        bool promised =
            budget->minimum_bytes && budget->process_bytes + UNSURE_BYTES >= held + minimum;
        if (budget->process_bytes < (promised ? least : held + minimum)) {
            return fail_budget(budget->process_bytes, least, minimum, err);
        }
        room = budget->process_bytes - fb_min(budget->process_bytes, held);
        room = fb_max(room, minimum) + lent;
    }
    uint64_t available = available_for_weights(held - rss);
    if (available < minimum && room > available) {
        return fail_memory(held + available, fb_max(least, held + minimum), err);
    }
    if (lent > 0) {
        b->ctx = budget->ctx;
        b->begin_bytes = rss;
        fb_lending_enable(
            &b->lending, budget->rows, own_bytes, budget->settles ? FB_PROCESS_SLACK_BYTES : 0);
    }
    return fb_plan_make(weights, fb_min(room, available + lent), lent, budget->curves, out, err);
}

void fb_binding_pass(struct fb_binding *b, uint32_t tokens)
{
    if (!fb_lending_pass(&b->lending, tokens)) {
        return;
    }
    uint64_t planned = b->begin_bytes + fb_stream_now(b->stream) + b->lending.touched_bytes;
    uint64_t now = fb_memory_rss();
    fb_lending_settle(&b->lending, now - fb_min(now, planned));
}

void fb_binding_set_threads(struct fb_binding *b, int n_threads)
{
    b->n_threads = n_threads;
    fb_workers_set_threads(b->workers, n_threads);
}

/* --- Starting ------------------------------------------------------------------------------- */

/* fb_unpack_fn of the stream; `user` is the binding. */
static void unpack_for_stream(void *user, const struct fb_unpack *unpacks, int n)
{
    struct fb_binding *b = user;
    fb_binding_unpack(b, b->workers, unpacks, n);
}

/* fb_check_fn of the stream; `user` is the binding. */
static enum forebay_status check_for_stream(void *user, int weight, int unit, void *data,
    const struct forebay_error *failed, struct forebay_error *err)
{
    struct fb_binding *b = user;
    const struct fb_form *form = &b->claims[b->weights->weights[weight].tensor].form;
    return fb_records_check(&b->records, b->weights, weight, unit, form, data, failed, err);
}

enum forebay_status fb_binding_start(struct fb_binding *b, const struct fb_plan *plan,
    const struct fb_io_options *io, forebay_progress progress, void *progress_user,
    struct forebay_error *err)
{
    const struct fb_stream_options options = {
        .unpack = unpack_for_stream,
        .check = b->records.sidecar ? check_for_stream : NULL,
        .user = b,
        .io = *io,
    };
    FB_ASSERT(b->weights && b->workers && !b->measuring);
    if (plan->streamed_bytes > 0) { /* a wait per streamed weight, some 10 ms each */
        fb_workers_sleep_when_idle(b->workers);
    }
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        if (b->claims[i].tensor) {
            /* Also in llama.cpp's own mapping of the file: nobody reads it through page faults. */
            fb_vm_forbid(b->claims[i].tensor->data, b->claims[i].bytes);
        }
    }
    enum forebay_status status = fb_stream_new(b->weights, plan, &options, &b->stream, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    if (b->lending.enabled) {
        fb_stream_lend(b->stream, b->lending.slack_bytes);
        fb_stream_adapt(b->stream, true);
    }
    b->memory_watch = fb_memory_watch_start(b->stream, b->n_threads, &b->cpu_use);
    status = fb_stream_load(b->stream, progress, progress_user, err);
    fb_memory_watch_loaded(b->memory_watch);
    if (status != FOREBAY_OK) { /* nobody may compute with a stream that is half loaded */
        fb_memory_watch_stop(b->memory_watch);
        fb_stream_free(b->stream);
        b->memory_watch = NULL;
        b->stream = NULL;
    }
    return status;
}

/* --- When it is started ---------------------------------------------------------------------- */

struct fb_stream *fb_binding_stream(struct fb_binding *b)
{
    return b->stream;
}

uint64_t fb_binding_own_ns(const struct fb_binding *b)
{
    return b->graph_ns - b->compute_ns;
}

uint64_t fb_binding_copied(const struct fb_binding *b, uint64_t *ns)
{
    *ns = b->copied_ns;
    return b->copied_bytes;
}

void fb_binding_set_lookahead(struct fb_binding *b, int depth, float recall)
{
    b->lookahead_depth = depth;
    b->lookahead_recall = recall;
}

void fb_binding_observe(struct fb_binding *b, fb_route_fn observe, void *user)
{
    b->observe = observe;
    b->observe_user = user;
}

enum forebay_status fb_binding_take_error(struct fb_binding *b, struct forebay_error *err)
{
    enum forebay_status status = b->error.status;
    if (status != FOREBAY_OK && err) {
        *err = b->error;
    }
    b->error.status = FOREBAY_OK;
    return status;
}

bool fb_binding_share_processors(struct fb_binding *b, int *n_threads, void **threadpool)
{
    struct fb_workers *w = b->workers;
    int limit = fb_memory_watch_threads(b->memory_watch);
    if (limit != w->limit) {
        fb_debug("%d of %d threads compute", limit, b->n_threads);
    }
    fb_workers_set_threads(w, b->n_threads);
    fb_workers_limit(w, limit);
    bool few = fb_workers_limited(w) && !b->fixed_threads && !b->beside_device;
    *n_threads = few ? w->limit : w->n_threads;
    *threadpool = few ? w->few[w->limit] : w->threadpool;
    return *threadpool != NULL;
}

double fb_binding_others(const struct fb_binding *b)
{
    return fb_memory_watch_others(b->memory_watch);
}

void *fb_binding_threadpool(struct fb_binding *b)
{
    return b->workers->threadpool;
}

/* --- Unpacking without a stream -------------------------------------------------------------- */

struct fb_repacker {
    const struct fb_binding *binding;
    struct fb_workers workers;
};

struct fb_repacker *fb_repacker_new(struct fb_binding *b, int n_threads)
{
    struct fb_repacker *r = fb_xcalloc(1, sizeof *r);
    r->binding = b;
    if (!fb_workers_init(&r->workers)) {
        free(r);
        return NULL;
    }
    fb_workers_set_threads(&r->workers, n_threads);
    fb_workers_sleep_when_idle(&r->workers);
    return r;
}

void fb_repacker_free(struct fb_repacker *r)
{
    if (r) {
        fb_workers_release(&r->workers);
        free(r);
    }
}

void fb_repacker_run(struct fb_repacker *r, const struct fb_unpack *unpacks, int n)
{
    fb_binding_unpack(r->binding, &r->workers, unpacks, n);
}
