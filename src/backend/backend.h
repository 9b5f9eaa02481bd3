/*
 * backend.h - Strata as a ggml device of type ACCEL.
 *
 * llama.cpp offers every weight to an ACCEL device first. Ours claims the matrices worth holding
 * (see binding.c), reserves address space for them without touching it, and computes the graph:
 * nodes whose weight it claimed are computed by the CPU backend on a *shadow* of the node that
 * points at the bytes where the stream put them; all other nodes are handed to the CPU backend as
 * they are. Having the whole graph in one place saves a synchronisation per weight, and lets reads
 * for later nodes run while earlier ones compute.
 *
 * Life of a binding (one model, one at a time per process):
 *
 *      st_binding_new --> llama loads the model: supports_op collects the claims
 *      --> llama makes a context --> st_binding_start (plan known, stream made and loaded)
 *      --> graphs are computed --> llama frees context and model --> st_binding_free
 */
#ifndef ST_BACKEND_BACKEND_H
#define ST_BACKEND_BACKEND_H

#include "model/weights.h"
#include "plan/plan.h"
#include "sidecar/sidecar.h"
#include "stream/stream.h"

struct st_binding;

/* Registers the device with ggml, once per process. It claims nothing without a binding. */
void st_device_register(void);

/* Makes the model the one whose weights the device claims. The device must be registered and the
 * CPU backend loaded. `repack`: weights are kept in the layout that the
 * CPU backend would repack them into, if any (llama.cpp's use_extra_bufts). `measuring`: llama.cpp
 * will load with no_alloc; the binding is good for a plan, and nothing else. */
struct st_binding *st_binding_new(const struct st_catalog *catalog, bool repack, bool measuring);

/* Before llama.cpp makes a context: some layers are on a device of another back end. Ours then
 * takes only nodes on claimed weights (and what lies between an expert's matrices), so that the
 * scheduler places all others as it would without us. The price: a synchronisation per weight. */
void st_binding_beside_device(struct st_binding *binding);

/* From now on the weights that the sidecar has, in the layouts that they would be kept in, are read
 * from it. Before st_binding_weights; the sidecar must outlive the binding. */
void st_binding_use_sidecar(struct st_binding *binding, struct st_sidecar *sidecar);

/* Bytes of units read from the sidecar, over all weights; 0: nothing is. */
uint64_t st_binding_sidecar_bytes(struct st_binding *binding);

/* After llama_free and llama_model_free. */
void st_binding_free(struct st_binding *binding);

/* What was claimed. The first call must come right after llama.cpp loaded the model: it gives the
 * claimed tensors their shapes back, which were hidden so that llama.cpp reads none of them. */
const struct st_weights *st_binding_weights(struct st_binding *binding);

struct st_budget {
    uint64_t process_bytes;         /* for the whole process */
    uint64_t weights_bytes;         /* for weights only, whatever the rest takes; 0: what is left */
    uint64_t pending_bytes;         /* what llama.cpp will take and has not yet */
    uint32_t ctx, batch;            /* of the context */
    const struct st_curves *curves; /* of the model's experts; NULL: nothing is known */
};

/* Plans for what is left of the budget, once llama.cpp has loaded the model and made the context:
 * resident set, compute buffers and a reserve are known then. *held_bytes is what they come to.
 * E_NOFIT with the smallest budget that would do. */
enum strata_status st_binding_plan(struct st_binding *binding, const struct st_budget *budget,
    struct st_plan **out, uint64_t *held_bytes, struct strata_error *err);

/* Makes the stream as planned and loads what is kept. From here on the claimed weights' own
 * addresses are inaccessible: a use that is not ours faults instead of computing nonsense. */
enum strata_status st_binding_start(struct st_binding *binding, const struct st_plan *plan,
    const struct st_io_options *io, strata_progress progress, void *progress_user,
    struct strata_error *err);

struct st_stream *st_binding_stream(struct st_binding *binding);

/* Time in our graphs since the start that the CPU backend did not compute: the stream's stalls and
 * arrivals, and bookkeeping. */
uint64_t st_binding_own_ns(const struct st_binding *binding);

/* How far experts are read ahead of their layer (lookahead.h); process-wide, for experiments. */
struct st_lookahead_setting {
    int depth;    /* layers; 0: not at all */
    float recall; /* share of what is foreseen that is left right (1). Models that replay a trace
                   * foresee perfectly, which no real one does. */
};
extern struct st_lookahead_setting st_lookahead;

/* Told, for each row that a layer's experts are about to compute, which of the group's experts it
 * uses; the rows in the order of the batch. May not call back. */
typedef void (*st_route_fn)(void *user, int group, const int *experts, int n);

/* Lets `observe` know of every route from now on; NULL: nobody, which costs nothing. */
void st_binding_observe(struct st_binding *binding, st_route_fn observe, void *user);

/* --- Forms without a stream ---------------------------------------------------------------- */

/* How a claimed weight is laid out. */
void st_binding_form(struct st_binding *binding, int weight, struct st_sidecar_form *out);

/* Threads that bring units into the form they are computed with, as when they arrive. NULL when there
 * is no CPU backend. */
struct st_shaper;
struct st_shaper *st_shaper_new(struct st_binding *binding, int n_threads);
void st_shaper_free(struct st_shaper *shaper);
void st_shaper_put(struct st_shaper *shaper, const struct st_arrival *arrivals, int n);

/* Why the last graph failed. STRATA_OK when it did not. Reading it clears it. */
enum strata_status st_binding_take_error(struct st_binding *binding, struct strata_error *err);

/* Threads the device computes with, for loading too; once llama.cpp has made the context. */
void st_binding_set_threads(struct st_binding *binding, int n_threads);

/* Their pool (an opaque ggml_threadpool_t) for llama_attach_threadpool, after st_binding_start:
 * llama.cpp gives some small nodes to its own CPU backend, and two pools would spin against each
 * other. NULL when the CPU backend has none. */
void *st_binding_threadpool(struct st_binding *binding);

#endif
