/*
 * binding.c - which weights are ours, and in which form they are kept.
 *
 * llama.cpp asks our device about every weight with a trial node of the op that will use it. We
 * claim matrices (named .weight) used by MUL_MAT or MUL_MAT_ID, in the form that the CPU backend
 * would have chosen for them: the same question, put to its own extra buffer types. Everything else
 * (norms, biases, scales, embedding tables, convolutions) stays with llama.cpp, fully resident.
 */
#include "backend/internal.h"
#include "backend/shuffle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/memory.h"

/* What the process takes besides weights, KV cache and compute buffers: thread stacks, logits, the
 * allocator's slack. Measured on the models of the test suite: 20 to 45 MiB. */
#define SLACK_BYTES (64 * FB_MIB)
/* A budget that a hint names must still be enough in the next run, whose resident set may differ from
 * the one that it was worked out from: seen once, by 11 MiB, under a limit of memory. */
#define HINT_BYTES (16 * FB_MIB)

struct fb_binding *fb_bound;

void fb_device_register(void)
{
    static bool registered;
    if (!registered) {
        ggml_backend_register(fb_device_reg());
        registered = true;
    }
}

struct fb_binding *fb_binding_new(const struct fb_catalog *catalog, bool repack, bool measuring)
{
    FB_ASSERT(!fb_bound);
    struct fb_binding *b = fb_xcalloc(1, sizeof *b);
    b->catalog = catalog;
    b->repack = repack;
    b->measuring = measuring;
    atomic_flag_clear(&b->computing);
    b->claims = fb_xcalloc((size_t)catalog->n_tensors, sizeof *b->claims);
    fb_bound = b;
    return b;
}

void fb_binding_beside_device(struct fb_binding *b)
{
    b->beside_device = true;
}

void fb_binding_free(struct fb_binding *b)
{
    if (!b) {
        return;
    }
    fb_governor_stop(b->governor);
    fb_stream_free(b->stream);
    fb_weights_free(b->weights);
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        ggml_backend_buffer_free(b->claims[i].form_buffer);
    }
    free(b->claims);
    if (fb_bound == b) {
        fb_bound = NULL;
    }
    free(b);
}

/* --- Claiming ------------------------------------------------------------------------------ */

/* The CPU buffer type that llama.cpp would repack this weight into for this op, or NULL. */
static ggml_backend_buffer_type_t repacked_layout(
    const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_dev_get_extra_bufts_t get =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *bufts = get ? get(cpu) : NULL;
    for (; bufts && *bufts; bufts++) {
        struct ggml_tensor w = *weight, trial = *op;
        w.buffer = ggml_backend_buft_alloc_buffer(*bufts, 0);
        for (int s = 0; s < GGML_MAX_SRC; s++) {
            if (trial.src[s] == weight) {
                trial.src[s] = &w;
            }
        }
        bool fits = ggml_backend_dev_supports_op(cpu, &trial);
        ggml_backend_buffer_free(w.buffer);
        if (fits) {
            return *bufts;
        }
    }
    return NULL;
}

bool fb_claim_choose_form(struct claim *claim, const struct ggml_tensor *op,
    const struct ggml_tensor *weight, bool repack, bool expert)
{
    ggml_backend_buffer_type_t layout = repack ? repacked_layout(op, weight) : NULL;
    struct ggml_tensor unit = *weight;
    if (expert) {
        unit.ne[2] = 1;
        unit.nb[3] = unit.nb[2];
    }
    claim->type = weight->type;
    memcpy(claim->unit_ne, unit.ne, sizeof claim->unit_ne);
    claim->unit_bytes = ggml_nbytes(&unit);
    claim->layout = layout;
    if (!layout) {
        return true;
    }
    claim->unit_bytes = ggml_backend_buft_get_alloc_size(layout, &unit);
    /* The traits that compute with the layout come from a tensor in a buffer of that type. */
    claim->form_buffer = ggml_backend_buft_alloc_buffer(layout, 64);
    if (!claim->form_buffer) {
        return false;
    }
    unit.buffer = claim->form_buffer;
    unit.data = ggml_backend_buffer_get_base(claim->form_buffer);
    unit.extra = NULL;
    unit.view_src = NULL;
    if (claim->form_buffer->iface.init_tensor) {
        claim->form_buffer->iface.init_tensor(claim->form_buffer, &unit);
    }
    claim->form_extra = unit.extra;
    if (!claim->form_extra) {
        ggml_backend_buffer_free(claim->form_buffer);
        claim->form_buffer = NULL;
        return false;
    }
    claim->shuffle = fb_shuffle_of(claim);
    return true;
}

static bool claimable(
    const struct fb_tensor *info, const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    if (!info->matrix || info->bytes < FB_CLAIM_MIN_BYTES || info->role == FB_ROLE_EMBEDDING) {
        return false; /* an embedding used as output is shared with a use that is not ours */
    }
    if (op->src[0] != weight || weight->type != (enum ggml_type)info->type ||
        memcmp(weight->ne, info->ne, sizeof weight->ne) != 0) {
        return false; /* not used as a matrix, or of another model with the same names */
    }
    bool expert = fb_weights_is_expert(info);
    if (op->op == GGML_OP_MUL_MAT_ID) {
        return expert ? weight->ne[2] == info->n_expert && weight->ne[3] == 1 : true;
    }
    return op->op == GGML_OP_MUL_MAT && !expert;
}

bool fb_binding_offer(
    struct fb_binding *b, const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    int tensor = fb_catalog_find(b->catalog, weight->name);
    if (tensor < 0 || b->weights) {
        return false;
    }
    const struct fb_tensor *info = &b->catalog->tensors[tensor];
    struct claim *claim = &b->claims[tensor];
    if (!claimable(info, op, weight)) {
        return false;
    }
    if (claim->claimed) {
        return true;
    }
    if (!fb_claim_choose_form(claim, op, weight, b->repack, fb_weights_is_expert(info))) {
        fb_debug("%s stays with llama.cpp: no single units in %s", info->name,
            ggml_backend_buft_name(claim->layout));
        return false;
    }
    claim->claimed = true;
    return true;
}

struct claim *fb_claim_of(const struct ggml_tensor *tensor)
{
    if (!tensor) {
        return NULL;
    }
    const struct ggml_tensor *owner = tensor->view_src ? tensor->view_src : tensor;
    if (!owner->buffer || owner->buffer->buft != fb_device_buft()) {
        return NULL;
    }
    return owner->extra;
}

/* The weights of all claims that llama.cpp made tensors for, or, when it only measured, of all. */
static struct fb_weights *weights_of_claims(struct fb_binding *b)
{
    struct fb_claim *list = fb_xcalloc((size_t)b->catalog->n_tensors, sizeof *list);
    int n = 0;
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        struct claim *claim = &b->claims[i];
        if (claim->tensor || (b->measuring && claim->claimed)) {
            claim->weight = n; /* catalogue order: the index fb_weights_new gives it */
            list[n++] = (struct fb_claim){
                .tensor = i, .unit_bytes = claim->unit_bytes, .transform = claim->layout != NULL};
            if (b->sidecar) {
                fb_records_place(b, claim, &list[n - 1]);
            }
        }
    }
    struct fb_weights *weights = fb_weights_new(b->catalog, list, n);
    free(list);
    return weights;
}

const struct fb_weights *fb_binding_weights(struct fb_binding *b)
{
    if (!b->weights) {
        for (int i = 0; i < b->catalog->n_tensors; i++) {
            struct claim *claim = &b->claims[i];
            if (claim->tensor) {
                memcpy(claim->tensor->ne, claim->ne, sizeof claim->ne);
            }
        }
        b->weights = weights_of_claims(b);
    }
    return b->weights;
}

/* --- Running ------------------------------------------------------------------------------- */

/* What the machine and its containers have for weights, when other needs will take `rest` more. A
 * budget is a ceiling: it does not make memory. */
static uint64_t memory_there(uint64_t rest)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t reserve = fb_memory_reserve(&state), headroom = fb_memory_headroom(&state);
    rest += reserve + reserve / 2;
    return headroom - fb_min(headroom, rest);
}

enum forebay_status fb_binding_plan(struct fb_binding *b, const struct fb_budget *budget,
    struct fb_plan **out, uint64_t *held_bytes, struct forebay_error *err)
{
    const struct fb_weights *weights = fb_binding_weights(b);
    uint64_t rss = fb_memory_rss();
    uint64_t held = rss + b->compute_bytes + budget->pending_bytes +
                    fb_moe_scratch_bytes(b, budget->batch) + SLACK_BYTES +
                    2 * sizeof(float) * (uint64_t)budget->ctx * budget->batch;
    uint64_t minimum = fb_plan_minimum(weights), room = budget->weights_bytes;
    *held_bytes = held;
    if (room == 0) {
        room = budget->process_bytes > held ? budget->process_bytes - held : 0;
        if (budget->process_bytes < held + minimum) {
            char hint[sizeof err->hint];
            snprintf(hint, sizeof hint,
                fb_hooks ? "Set FOREBAY_MEM to at least %lluM."
                         : "Give at least --mem %lluM, or a smaller --ctx or --batch.",
                (unsigned long long)((held + minimum + HINT_BYTES) / FB_MIB + 1));
            return fb_fail(err, FOREBAY_E_NOFIT, hint,
                "a budget of %s is too small: the context and llama.cpp need %s, the weights at "
                "least %s",
                FB_SIZE(budget->process_bytes), FB_SIZE(held), FB_SIZE(minimum));
        }
    }
    uint64_t there = memory_there(held - rss);
    if (there < minimum && room > there) {
        return fb_fail(err, FOREBAY_E_NOFIT, "Free some memory, or raise the container's limit.",
            "the weights need at least %s of memory, %s is free", FB_SIZE(minimum), FB_SIZE(there));
    }
    return fb_plan_make(weights, fb_min(room, there), budget->curves, out, err);
}

enum forebay_status fb_binding_start(struct fb_binding *b, const struct fb_plan *plan,
    const struct fb_io_options *io, forebay_progress progress, void *progress_user,
    struct forebay_error *err)
{
    const struct fb_stream_options options = {
        .unpack = fb_workers_unpack_for_stream,
        .check = b->sidecar ? fb_records_check : NULL,
        .user = b,
        .io = *io,
    };
    FB_ASSERT(b->weights && b->exec);
    if (plan->streamed_bytes > 0) { /* a wait per streamed weight, some 10 ms each */
        fb_workers_sleep_when_idle(&b->exec->workers);
    }
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        if (b->claims[i].tensor) {
            /* Also in llama.cpp's own mapping of the file: nobody reads it through page faults. */
            fb_vm_forbid(b->claims[i].tensor->data, b->claims[i].bytes);
        }
    }
    enum forebay_status status = fb_stream_new(b->weights, plan, &options, &b->stream, err);
    if (status == FOREBAY_OK) {
        status = fb_stream_load(b->stream, progress, progress_user, err);
        if (status != FOREBAY_OK) { /* nobody may compute with what is half loaded */
            fb_stream_free(b->stream);
            b->stream = NULL;
        }
    }
    if (status == FOREBAY_OK) {
        b->governor = fb_governor_start(b->stream);
    }
    return status;
}

struct fb_stream *fb_binding_stream(struct fb_binding *b)
{
    return b->stream;
}

uint64_t fb_binding_own_ns(const struct fb_binding *b)
{
    return b->graph_ns - b->compute_ns;
}

void fb_binding_observe(struct fb_binding *b, fb_route_fn observe, void *user)
{
    b->observe = observe;
    b->observe_user = user;
}

enum ggml_status fb_backend_fail(struct fb_binding *b, const struct forebay_error *err)
{
    b->error = *err;
    if (fb_hooks) { /* there is no engine to ask for it */
        fb_log(FOREBAY_LOG_ERROR, "%s", err->message);
    }
    return GGML_STATUS_FAILED;
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

void fb_binding_set_threads(struct fb_binding *b, int n_threads)
{
    fb_workers_set_threads(&b->exec->workers, n_threads);
}

void *fb_binding_threadpool(struct fb_binding *b)
{
    return b->exec->workers.pool;
}
