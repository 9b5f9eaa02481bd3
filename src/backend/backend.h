/*
 * backend.h - Forebay as a ggml device of type ACCEL: the functions for the engine and the plug-in.
 *
 * llama.cpp offers every weight to an ACCEL device first. Ours claims the matrices worth holding
 * (binding.c), reserves address space for them without touching it, and computes the graph
 * (walk.h): nodes whose weight it claimed are computed by the CPU backend on a *shadow* of the node
 * that points at the bytes where the stream has them; all other nodes are handed to the CPU backend
 * as they are. Having the whole graph in one place saves a synchronisation per weight, and allows
 * reads for later nodes to progress while earlier ones compute.
 *
 * Life of a binding (one model, one at a time per process):
 *
 *      fb_binding_new --> llama loads the model: supports_op collects the claims
 *      --> llama makes a context --> fb_binding_start (plan known, stream made and loaded)
 *      --> graphs are computed --> llama frees context and model --> fb_binding_free
 *
 * Threads: a binding belongs to one thread at a time, the one that loads and computes.
 */
#ifndef FB_BACKEND_BACKEND_H
#define FB_BACKEND_BACKEND_H

#include "backend/routing.h"
#include "ggml-backend.h"
#include "model/weights.h"
#include "plan/plan.h"
#include "sidecar/sidecar.h"
#include "stream/stream.h"

struct fb_binding;

/* Registers the device with ggml; further calls do nothing. It claims nothing without a binding. */
void fb_device_register(void);

/* --- Before llama.cpp loads the model ------------------------------------------------------- */

/* Binds the device to a model: from now on it claims this model's weights. The device must be
 * registered, the CPU backend loaded, and no other binding exist; the catalogue must outlive it.
 * `repack`: weights are held in the layout that the CPU backend would repack them into, if any
 * (llama.cpp's use_extra_bufts). `measuring`: llama.cpp will load with no_alloc; the binding serves
 * for a plan, and cannot be started. */
struct fb_binding *fb_binding_new(const struct fb_catalog *catalog, bool repack, bool measuring);

/* Some layers are on a device of another back end. Ours then supports only nodes on claimed weights
 * (and the nodes between an expert's matrices), so that the scheduler places all others as it would
 * without us. The price: a synchronisation per weight. */
void fb_binding_beside_device(struct fb_binding *binding);

/* Experts of layers [first, end) are given to a GPU, which computes with them as they are in the
 * file (gpu/gpu.h). Call it before llama.cpp measures or loads the model. When it loads, their
 * matrices must be overridden to fb_device_gpu_buffers. */
void fb_binding_give_gpu(struct fb_binding *binding, int first_layer, int end_layer);
ggml_backend_buffer_type_t fb_device_gpu_buffers(void);

/* The GPU computes with the stream's own slots of these experts (gpu/gpu_shared.h): they lie in
 * memory as a stack of matrices. Call it after fb_binding_give_gpu. */
void fb_binding_share_slots(struct fb_binding *binding);

/* Products of dense weights with as many rows as the GPU wants for that (ggml's offload_op: from 32
 * on) are the GPU's, those with fewer rows ours. The weights must be held as they are in the file.
 * Call it before llama.cpp measures or loads the model, with a proxy of the GPU (gpu/proxy.h). */
void fb_binding_give_prompts(struct fb_binding *binding);

/* Reads weights from the sidecar if it has them in the layouts that they would be held in. Call
 * before fb_binding_weights; the sidecar must outlive the binding. */
void fb_binding_use_sidecar(struct fb_binding *binding, struct fb_sidecar *sidecar);

/* Call after llama_free and llama_model_free. NULL is accepted. */
void fb_binding_free(struct fb_binding *binding);

/* --- When the model is loaded ---------------------------------------------------------------- */

/* The weights that were claimed, which the binding owns. The first call must come right after
 * llama.cpp loaded the model: it restores the shapes of the claimed tensors, which were hidden so
 * that llama.cpp reads none of them. */
const struct fb_weights *fb_binding_weights(struct fb_binding *binding);

/* After llama.cpp measured the model: E_UNSUPPORTED names a weight whose type the CPU backend
 * cannot compute with where the graph uses it (it would abort the process, or read outside of the
 * weight). */
enum forebay_status fb_binding_check_types(
    const struct fb_binding *binding, struct forebay_error *err);

/* Bytes of units that are read from the sidecar, over all weights; 0: none. */
uint64_t fb_binding_sidecar_bytes(struct fb_binding *binding);

/* Describes the layout of the weight's units, as a sidecar records it. */
void fb_binding_form(struct fb_binding *binding, int weight, struct fb_sidecar_form *out);

struct fb_budget {
    uint64_t process_bytes; /* for the whole process */
    uint64_t minimum_bytes; /* fb_binding_minimum: the least process_bytes that is accepted;
                                     * 0: worked out from the memory that the process has now */
    uint64_t weights_bytes; /* for weights only, whatever the rest needs; 0: derived from
                                     * process_bytes */
    uint64_t pending_bytes; /* that llama.cpp will allocate, and has not yet ... */
    uint64_t results_bytes; /* ... and for intermediate results on our device */
    uint32_t ctx, batch;    /* of the context */
    bool settles;  /* after some passes the process allocates little more, apart from batches */
    uint32_t rows; /* tokens of a pass while generating: what only larger passes need is lent to
                    * them, and passes are announced by fb_binding_pass; 0: nothing is lent */
    const struct fb_curves *curves; /* of the model's experts; NULL: unknown */
};

/* The smallest budget for the whole process, in whole MiB. It depends on `own_bytes` (memory of the
 * process without the model), on pending_bytes, which must be all that llama.cpp allocates, and on
 * ctx and batch, and not on what the process happens to hold now. */
uint64_t fb_binding_minimum(
    struct fb_binding *binding, const struct fb_budget *budget, uint64_t own_bytes);

/* Plans for the rest of the budget, once llama.cpp has loaded the model and made the context: its
 * resident memory and compute buffers are known then. *held_bytes is their sum with a reserve,
 * without what is lent to batches.
 * E_NOFIT names the smallest sufficient budget. */
enum forebay_status fb_binding_plan(struct fb_binding *binding, const struct fb_budget *budget,
    struct fb_plan **out, uint64_t *held_bytes, struct forebay_error *err);

/* A pass of so many tokens begins: what earlier passes computed is not needed any more. */
void fb_binding_pass(struct fb_binding *binding, uint32_t tokens);

/* Sets how many threads the device computes with, also while loading. Call it after llama.cpp made
 * the context. */
void fb_binding_set_threads(struct fb_binding *binding, int n_threads);

/* Makes the stream as planned and loads what is to be resident. From here on the claimed weights'
 * own addresses are inaccessible: a use that is not ours faults instead of computing nonsense. Once
 * per binding. */
enum forebay_status fb_binding_start(struct fb_binding *binding, const struct fb_plan *plan,
    const struct fb_io_options *io, forebay_progress progress, void *progress_user,
    struct forebay_error *err);

/* --- When it is started ---------------------------------------------------------------------- */

/* The binding owns it. */
struct fb_stream *fb_binding_stream(struct fb_binding *binding);

/* Time in our graphs since the start in which the CPU backend did not compute: the stream's stalls,
 * unpacking, and bookkeeping. */
uint64_t fb_binding_own_ns(const struct fb_binding *binding);

/* Dense weights copied to a GPU since the start, and the time that took. */
uint64_t fb_binding_copied(const struct fb_binding *binding, uint64_t *ns);

/* How many layers ahead experts are guessed and prefetched (lookahead.h); 0: none, 1 unless set.
 * `recall` is for experiments: the fraction of guesses that is left correct (1 unless set). Test
 * models that replay a trace are guessed perfectly; real ones never are. */
void fb_binding_set_lookahead(struct fb_binding *binding, int depth, float recall);

/* `observe` is told every route from now on; NULL: nobody is. */
void fb_binding_observe(struct fb_binding *binding, fb_route_fn observe, void *user);

/* Why the last graph failed; FOREBAY_OK when it did not. Reading it clears it. */
enum forebay_status fb_binding_take_error(struct fb_binding *binding, struct forebay_error *err);

/* Before each evaluation, by the thread that evaluates: lets fewer threads compute while other
 * programs use the processors. No result changes. *n_threads of *threadpool (a ggml_threadpool_t)
 * are for llama.cpp's own CPU backend in this evaluation. False when the CPU backend has no
 * pools. */
bool fb_binding_share_processors(struct fb_binding *binding, int *n_threads, void **threadpool);

/* Processors that other programs used since the start, on average. */
double fb_binding_others(const struct fb_binding *binding);

/* The threads' pool (a ggml_threadpool_t) for llama_attach_threadpool, after fb_binding_start:
 * llama.cpp gives some small nodes to its own CPU backend, and two pools would spin against each
 * other. NULL when the CPU backend has none. */
void *fb_binding_threadpool(struct fb_binding *binding);

/* --- Unpacking without a stream -------------------------------------------------------------- */

/* Threads that unpack units as a stream would. NULL when there is no CPU backend. The binding must
 * outlive it. */
struct fb_repacker;
struct fb_repacker *fb_repacker_new(struct fb_binding *binding, int n_threads);
void fb_repacker_free(struct fb_repacker *repacker);

/* Unpacks n units; returns when all are unpacked. */
void fb_repacker_run(struct fb_repacker *repacker, const struct fb_unpack *unpacks, int n);

#endif
