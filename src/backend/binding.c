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
#define SLACK_BYTES (64 * ST_MIB)
/* A budget that a hint names must still be enough in the next run, whose resident set may differ from
 * the one that it was worked out from: seen once, by 11 MiB, under a limit of memory. */
#define HINT_BYTES (16 * ST_MIB)

struct st_binding *st_bound;

void st_device_register(void)
{
    static bool registered;
    if (!registered) {
        ggml_backend_register(st_device_reg());
        registered = true;
    }
}

struct st_binding *st_binding_new(const struct st_catalog *catalog, bool repack, bool measuring)
{
    ST_ASSERT(!st_bound);
    struct st_binding *b = st_xcalloc(1, sizeof *b);
    b->catalog = catalog;
    b->repack = repack;
    b->measuring = measuring;
    atomic_flag_clear(&b->computing);
    b->claims = st_xcalloc((size_t)catalog->n_tensors, sizeof *b->claims);
    st_bound = b;
    return b;
}

void st_binding_beside_device(struct st_binding *b)
{
    b->beside_device = true;
}

void st_binding_free(struct st_binding *b)
{
    if (!b) {
        return;
    }
    st_governor_stop(b->governor);
    st_stream_free(b->stream);
    st_weights_free(b->weights);
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        ggml_backend_buffer_free(b->claims[i].form_buffer);
    }
    free(b->claims);
    if (st_bound == b) {
        st_bound = NULL;
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

bool st_claim_choose_form(struct claim *claim, const struct ggml_tensor *op,
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
    claim->shuffle = st_shuffle_of(claim);
    return true;
}

static bool claimable(
    const struct st_tensor *info, const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    if (!info->matrix || info->bytes < ST_CLAIM_MIN_BYTES || info->role == ST_ROLE_EMBEDDING) {
        return false; /* an embedding used as output is shared with a use that is not ours */
    }
    if (op->src[0] != weight || weight->type != (enum ggml_type)info->type ||
        memcmp(weight->ne, info->ne, sizeof weight->ne) != 0) {
        return false; /* not used as a matrix, or of another model with the same names */
    }
    bool expert = st_weights_is_expert(info);
    if (op->op == GGML_OP_MUL_MAT_ID) {
        return expert ? weight->ne[2] == info->n_expert && weight->ne[3] == 1 : true;
    }
    return op->op == GGML_OP_MUL_MAT && !expert;
}

bool st_binding_offer(
    struct st_binding *b, const struct ggml_tensor *op, const struct ggml_tensor *weight)
{
    int tensor = st_catalog_find(b->catalog, weight->name);
    if (tensor < 0 || b->weights) {
        return false;
    }
    const struct st_tensor *info = &b->catalog->tensors[tensor];
    struct claim *claim = &b->claims[tensor];
    if (!claimable(info, op, weight)) {
        return false;
    }
    if (claim->claimed) {
        return true;
    }
    if (!st_claim_choose_form(claim, op, weight, b->repack, st_weights_is_expert(info))) {
        st_debug("%s stays with llama.cpp: no single units in %s", info->name,
            ggml_backend_buft_name(claim->layout));
        return false;
    }
    claim->claimed = true;
    return true;
}

struct claim *st_claim_of(const struct ggml_tensor *tensor)
{
    if (!tensor) {
        return NULL;
    }
    const struct ggml_tensor *owner = tensor->view_src ? tensor->view_src : tensor;
    if (!owner->buffer || owner->buffer->buft != st_device_buft()) {
        return NULL;
    }
    return owner->extra;
}

/* The weights of all claims that llama.cpp made tensors for, or, when it only measured, of all. */
static struct st_weights *weights_of_claims(struct st_binding *b)
{
    struct st_claim *list = st_xcalloc((size_t)b->catalog->n_tensors, sizeof *list);
    int n = 0;
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        struct claim *claim = &b->claims[i];
        if (claim->tensor || (b->measuring && claim->claimed)) {
            claim->weight = n; /* catalogue order: the index st_weights_new gives it */
            list[n++] = (struct st_claim){
                .tensor = i, .unit_bytes = claim->unit_bytes, .transform = claim->layout != NULL};
            if (b->sidecar) {
                st_records_place(b, claim, &list[n - 1]);
            }
        }
    }
    struct st_weights *weights = st_weights_new(b->catalog, list, n);
    free(list);
    return weights;
}

const struct st_weights *st_binding_weights(struct st_binding *b)
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
    struct st_memory_state state;
    st_memory_state(&state);
    uint64_t reserve = st_memory_reserve(&state), headroom = st_memory_headroom(&state);
    rest += reserve + reserve / 2;
    return headroom - st_min(headroom, rest);
}

enum strata_status st_binding_plan(struct st_binding *b, const struct st_budget *budget,
    struct st_plan **out, uint64_t *held_bytes, struct strata_error *err)
{
    const struct st_weights *weights = st_binding_weights(b);
    uint64_t rss = st_memory_rss();
    uint64_t held = rss + b->compute_bytes + budget->pending_bytes +
                    st_moe_scratch_bytes(b, budget->batch) + SLACK_BYTES +
                    2 * sizeof(float) * (uint64_t)budget->ctx * budget->batch;
    uint64_t minimum = st_plan_minimum(weights), room = budget->weights_bytes;
    *held_bytes = held;
    if (room == 0) {
        room = budget->process_bytes > held ? budget->process_bytes - held : 0;
        if (budget->process_bytes < held + minimum) {
            char hint[sizeof err->hint];
            snprintf(hint, sizeof hint,
                st_hooks ? "Set STRATA_MEM to at least %lluM."
                         : "Give at least --mem %lluM, or a smaller --ctx or --batch.",
                (unsigned long long)((held + minimum + HINT_BYTES) / ST_MIB + 1));
            return st_fail(err, STRATA_E_NOFIT, hint,
                "a budget of %s is too small: the context and llama.cpp need %s, the weights at "
                "least %s",
                ST_SIZE(budget->process_bytes), ST_SIZE(held), ST_SIZE(minimum));
        }
    }
    uint64_t there = memory_there(held - rss);
    if (there < minimum && room > there) {
        return st_fail(err, STRATA_E_NOFIT, "Free some memory, or raise the container's limit.",
            "the weights need at least %s of memory, %s is free", ST_SIZE(minimum), ST_SIZE(there));
    }
    return st_plan_make(weights, st_min(room, there), budget->curves, out, err);
}

enum strata_status st_binding_start(struct st_binding *b, const struct st_plan *plan,
    const struct st_io_options *io, strata_progress progress, void *progress_user,
    struct strata_error *err)
{
    struct st_stream_config config = {
        .resident = plan->resident,
        .slots = plan->slots,
        .shared_slots = plan->shared_slots,
        .ring_bytes = plan->ring_bytes,
        .staging_bytes = plan->staging_bytes,
        .check = b->sidecar ? st_records_check : NULL,
        .transit_bytes = plan->transit_bytes,
        .preload = plan->everything_fits,
        .io = *io,
    };
    ST_ASSERT(b->weights && b->exec);
    if (plan->streamed_bytes > 0) { /* a wait per streamed weight, some 10 ms each */
        st_workers_sleep_when_idle(&b->exec->workers);
    }
    for (int i = 0; i < b->catalog->n_tensors; i++) {
        if (b->claims[i].tensor) {
            /* Also in llama.cpp's own mapping of the file: nobody reads it through page faults. */
            st_vm_forbid(b->claims[i].tensor->data, b->claims[i].bytes);
        }
    }
    enum strata_status status =
        st_stream_new(b->weights, &config, st_workers_arrive, b, &b->stream, err);
    if (status == STRATA_OK) {
        status = st_stream_load(b->stream, progress, progress_user, err);
        if (status != STRATA_OK) { /* nobody may compute with what is half loaded */
            st_stream_free(b->stream);
            b->stream = NULL;
        }
    }
    if (status == STRATA_OK) {
        b->governor = st_governor_start(b->stream);
    }
    return status;
}

struct st_stream *st_binding_stream(struct st_binding *b)
{
    return b->stream;
}

uint64_t st_binding_own_ns(const struct st_binding *b)
{
    return b->graph_ns - b->compute_ns;
}

void st_binding_observe(struct st_binding *b, st_route_fn observe, void *user)
{
    b->observe = observe;
    b->observe_user = user;
}

enum ggml_status st_backend_fail(struct st_binding *b, const struct strata_error *err)
{
    b->error = *err;
    if (st_hooks) { /* there is no engine to ask for it */
        st_log(STRATA_LOG_ERROR, "%s", err->message);
    }
    return GGML_STATUS_FAILED;
}

enum strata_status st_binding_take_error(struct st_binding *b, struct strata_error *err)
{
    enum strata_status status = b->error.status;
    if (status != STRATA_OK && err) {
        *err = b->error;
    }
    b->error.status = STRATA_OK;
    return status;
}

void st_binding_set_threads(struct st_binding *b, int n_threads)
{
    st_workers_set_threads(&b->exec->workers, n_threads);
}

void *st_binding_threadpool(struct st_binding *b)
{
    return b->exec->workers.pool;
}
