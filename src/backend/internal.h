/* internal.h - what the files of this module share. */
#ifndef FB_BACKEND_INTERNAL_H
#define FB_BACKEND_INTERNAL_H

#include "backend/backend.h"
#include "backend/device_state.h"
#include "backend/form.h"
#include "backend/workers.h"
#include "stream/transit.h"

#include <stdatomic.h>

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml.h"

/* --- Claims (binding.c) -------------------------------------------------------------------- */

/* One tensor of the catalogue, as llama.cpp offered and created it. */
struct claim {
    bool claimed;
    int weight; /* index into fb_weights, once built */
    struct fb_form form;
    struct ggml_tensor *tensor; /* llama.cpp's; its shape is hidden while the model loads */
    int64_t ne[4];              /* that shape */
    uint64_t bytes;
};

/* What a layout makes of made-up rows (records.c). */
struct probe {
    ggml_backend_buffer_type_t layout;
    const void *extra;
    enum ggml_type type;
    int64_t ne[2];
    uint64_t sum;
};
#define MAX_PROBES 64

struct fb_binding {
    const struct fb_catalog *catalog;
    bool repack;
    bool beside_device;   /* fb_binding_beside_device */
    bool measuring;       /* llama.cpp only goes through the motions: no tensors, no memory */
    struct claim *claims; /* [catalog->n_tensors] */
    struct fb_weights *weights;
    struct fb_sidecar *sidecar; /* NULL: all is read from the model */
    struct probe probes[MAX_PROBES];
    int n_probes;
    struct fb_stream *stream;
    struct exec *exec; /* of the newest context, then of the one that computed last */
    uint64_t compute_bytes;
    uint64_t graph_ns, compute_ns; /* in our graphs since the start; of it in the CPU backend */
    atomic_flag computing;         /* a stream serves one graph at a time */
    int lookahead_depth;
    float lookahead_recall;
    fb_route_fn observe; /* may be NULL */
    void *observe_user;
    struct governor *governor; /* NULL before the start */
    struct forebay_error error;
};

/* Decides on a weight that llama.cpp offers for `op` (a trial node; `weight` is one of its
 * sources), and remembers the decision. */
bool fb_binding_offer(
    struct fb_binding *b, const struct ggml_tensor *op, const struct ggml_tensor *weight);

/* The claim behind an op's source (or the tensor it is a view of); NULL when it is not ours. */
struct claim *fb_claim_of(const struct ggml_tensor *tensor);

/* --- Sidecar (records.c) ------------------------------------------------------------------- */

/* Has the weight read from the sidecar, if that has it in the claim's form. */
void fb_records_place(struct fb_binding *b, const struct claim *claim, struct fb_claim *out);

/* fb_check_fn of a stream; `user` is the binding. A unit that is not as it was written is made from
 * the model instead. */
enum forebay_status fb_records_check(void *user, int weight, int unit, void *data,
    const struct forebay_error *failed, struct forebay_error *err);

/* --- Memory that comes and goes (governor.c) ----------------------------------------------- */

/* Watches the memory from now on, and moves the stream's target. NULL when that cannot be. */
struct governor *fb_governor_start(struct fb_stream *stream);
void fb_governor_stop(struct governor *governor);

/* Around a graph, and again around each computation that touches nothing of the stream but open
 * passes and kept weights: outside of graphs, and during computations, memory may change. NULL is
 * fine for all of these. */
void fb_governor_begin(struct governor *governor);
void fb_governor_compute(struct governor *governor);
void fb_governor_computed(struct governor *governor);
void fb_governor_end(struct governor *governor);

/* --- Device (device.c) --------------------------------------------------------------------- */

ggml_backend_reg_t fb_device_reg(void);

/* --- Workers ------------------------------------------------------------------------------- */

/* Unpacks n units of the binding's weights. */
void fb_binding_unpack(
    const struct fb_binding *b, struct fb_workers *w, const struct fb_unpack *unpacks, int n);

/* --- Execution (exec.c, moe.c) ------------------------------------------------------------- */

struct exec {
    struct fb_workers workers;
    struct ggml_tensor **run; /* nodes that wait to be computed */
    int n_run, cap_run;
    struct ggml_tensor *shadows; /* copies made for the current graph */
    int n_shadows, cap_shadows;
    bool ring_taken;
    struct moe *moe;
    int *order;                         /* streamed dense weights of the graph */
    struct fb_expert_use *expert_order; /* its expert matrices */
    int cap_order;
};

struct exec *fb_exec_new(void);
void fb_exec_free(struct exec *ex);
enum ggml_status fb_exec_graph(struct exec *ex, struct fb_binding *b, struct ggml_cgraph *graph);

/* Computes what waits. */
enum ggml_status fb_exec_flush(struct exec *ex, struct fb_binding *b);
void fb_exec_defer(struct exec *ex, struct ggml_tensor *node);
/* A copy of the tensor that lives until the graph is done. */
struct ggml_tensor *fb_exec_shadow(struct exec *ex, const struct ggml_tensor *tensor);
/* A copy of the claimed weight that points at `data` in the form it is computed with. */
struct ggml_tensor *fb_exec_shadow_weight(
    struct exec *ex, const struct ggml_tensor *weight, const struct claim *claim, void *data);

/* A tensor over our own memory, next to `like`. */
struct ggml_tensor *fb_exec_tensor(struct exec *ex, const struct ggml_tensor *like,
    enum ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, void *data);

struct moe *fb_moe_new(void);
void fb_moe_free(struct moe *moe, struct fb_binding *b);
/* Computes what was left of nodes whose experts were not all there: before anything that may use
 * them. Nothing when there are none. */
enum ggml_status fb_moe_complete(struct exec *ex, struct fb_binding *b);
/* Handles a MUL_MAT_ID node whose weight is experts in slots. */
enum ggml_status fb_moe_node(
    struct exec *ex, struct fb_binding *b, struct ggml_tensor *node, struct claim *claim);
/* Ends what is open, after the graph (or its failure). */
void fb_moe_finish(struct moe *moe, struct fb_binding *b);
/* Which expert a row uses. */
static inline int fb_moe_id(const struct ggml_tensor *ids, int64_t pick, int64_t token)
{
    const char *at =
        (const char *)ids->data + token * (int64_t)ids->nb[1] + pick * (int64_t)ids->nb[0];
    return *(const int32_t *)at;
}

/* The weight as a stack of slots. */
struct ggml_tensor *fb_moe_slots_tensor(struct exec *ex, struct fb_binding *b,
    const struct ggml_tensor *weight, const struct claim *claim);

/* --- Nodes whose experts are not all there (partial.c) -------------------------------------- */

struct partials;
struct partials *fb_partials_new(void);
void fb_partials_free(struct partials *partials);
/* Whether the node has so few rows that gathering them is worth it. */
bool fb_partials_fit(const struct ggml_tensor *node);
/* Whether the open ones must be complete before the node is computed. */
bool fb_partials_before(const struct partials *partials, const struct ggml_tensor *node);
/* Opens a node that fits: computes with the experts of the pass that are there. */
enum ggml_status fb_partials_begin(struct partials *partials, struct exec *ex, struct fb_binding *b,
    const struct fb_lease *pass, struct ggml_tensor *node, struct claim *claim);
/* Computes what is left of the open ones, as it arrives, and closes them. */
enum ggml_status fb_partials_complete(
    struct partials *partials, struct exec *ex, struct fb_binding *b, struct fb_lease *pass);
void fb_partials_forget(struct partials *partials); /* closes them as they are */

/* --- Batches (batch.c) --------------------------------------------------------------------- */

struct batch;
struct batch *fb_moe_batch_new(void);
void fb_moe_batch_free(struct batch *batch);
/* Opens the layer of the node, whose ids are valid. */
void fb_moe_batch_begin(struct batch *batch, struct fb_binding *b, const struct ggml_tensor *node);
/* Whether the part has been computed since. */
bool fb_moe_batch_had(const struct batch *batch, int part);
enum ggml_status fb_moe_batch_node(struct batch *batch, struct exec *ex, struct fb_binding *b,
    struct ggml_tensor *node, struct claim *claim);
/* Memory that takes for so many rows of tokens. */
uint64_t fb_moe_scratch_bytes(const struct fb_binding *b, int tokens);

/* Records the failure for fb_binding_take_error. */
enum ggml_status fb_backend_fail(struct fb_binding *b, const struct forebay_error *err);

#endif
