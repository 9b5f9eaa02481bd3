/*
 * binding.h - one model as the device serves it: which of its weights are ours, in which form they
 * are held, and what a computation needs of them.
 *
 *      llama.cpp offers a weight ---> claimed or not, and in which form      fb_binding_offer
 *      llama.cpp makes its tensor --> its shape is hidden: no byte is read   fb_binding_adopt
 *      the model is loaded ---------> shapes are back, the weights are known fb_binding_close
 *
 * backend.h has the functions that the engine calls; this header is for files of this module.
 */
#ifndef FB_BACKEND_BINDING_H
#define FB_BACKEND_BINDING_H

#include <stdatomic.h>

#include "backend/lending.h"
#include "backend/records.h"
#include "backend/routing.h"
#include "backend/workers.h"
#include "os/cpu_use.h"

/* One tensor of the catalogue, as llama.cpp offered and created it. */
struct fb_tensor_claim {
    bool claimed;
    int weight; /* index into the binding's weights, once closed */
    struct fb_form form;
    struct ggml_tensor *tensor; /* llama.cpp's; NULL: not created (yet) */
    int64_t ne[4];              /* its shape, which is hidden until closed */
    uint64_t bytes;             /* of its address space */
};

struct fb_binding {
    const struct fb_catalog *catalog;
    bool repack;
    bool beside_device;                 /* fb_binding_beside_device */
    int gpu_first_layer, gpu_end_layer; /* fb_binding_give_gpu */
    bool shares_slots;                  /* fb_binding_share_slots */
    bool gives_prompts;                 /* fb_binding_give_prompts */
    bool has_context;                   /* llama.cpp has made a context's back end of ours */
    bool measuring;                     /* llama.cpp only measures: no tensors, no memory */
    struct fb_tensor_claim *claims;     /* [catalog->n_tensors] */
    struct fb_weights *weights;         /* NULL until closed */
    struct fb_records records;
    struct fb_stream *stream;             /* NULL until started */
    struct fb_memory_watch *memory_watch; /* NULL until started */
    int n_threads;                        /* that results are computed for */
    bool fixed_threads;         /* llama.cpp's own backend has nodes whose result depends on them */
    struct fb_cpu_use cpu_use;  /* when the binding was made */
    struct fb_workers *workers; /* of the newest context, then of the one that computed last */
    struct fb_lending lending;
    uint32_t ctx;          /* tokens that the KV cache has room for; set when memory is lent */
    uint64_t begin_bytes;  /* resident set when the plan was made; the same */
    uint64_t graph_ns;     /* in our graphs since the start ... */
    uint64_t compute_ns;   /* ... and of that in the CPU backend */
    uint64_t copied_bytes; /* of dense weights, to the GPU ... */
    uint64_t copied_ns;    /* ... and the time that took */
    atomic_flag computing; /* a stream serves one graph at a time */
    int lookahead_depth;
    float lookahead_recall;
    fb_route_fn observe; /* may be NULL */
    void *observe_user;
    struct forebay_error error;    /* of the last graph that failed */
    struct forebay_error unusable; /* of the first weight that no CPU kernel computes with */
};

/* --- Claiming ------------------------------------------------------------------------------ */

/* Decides whether the weight is ours for `op`, a trial node that llama.cpp made with the weight as
 * a source. The form is chosen at the first offer that is accepted. */
bool fb_binding_offer(
    struct fb_binding *b, const struct ggml_tensor *op, const struct ggml_tensor *weight);

/* Notes the weight as unusable if it is source s of `op` and has a type that the CPU backend aborts
 * on there. llama.cpp asks for every node, of trials and of graphs. */
void fb_binding_check_type(struct fb_binding *b, const struct ggml_tensor *op, int s);

/* Marks llama.cpp's tensor of a claimed weight as ours; other tensors are left alone. `hide`: hides
 * its shape until the binding is closed, so that llama.cpp reads none of its bytes. */
void fb_binding_adopt(struct fb_binding *b, struct ggml_tensor *tensor, bool hide);

/* Claims the weight, which llama.cpp has put where it was told to: among the experts that are given
 * to a GPU. The weight was claimed, too, when llama.cpp measured the model. */
void fb_binding_claim_for_gpu(struct fb_binding *b, const struct ggml_tensor *weight);

/* Ends the offers: restores the tensors' shapes and lists the weights. Further calls do nothing. */
void fb_binding_close(struct fb_binding *b);

/* --- Computing; the binding is closed ------------------------------------------------------- */

/* The claim behind a tensor (or the one it is a view of); NULL when it is not ours. */
struct fb_tensor_claim *fb_claim_of(const struct ggml_tensor *tensor);

/* The same for experts that are given to a GPU, which fb_claim_of does not know. */
struct fb_tensor_claim *fb_gpu_claim_of(const struct ggml_tensor *tensor);

/* Whether the group's experts are given to a GPU. */
bool fb_binding_on_gpu(const struct fb_binding *b, int group);

static inline const struct fb_weight *fb_claim_weight(
    const struct fb_binding *b, const struct fb_tensor_claim *claim)
{
    return &b->weights->weights[claim->weight];
}

/* Unpacks n units of the binding's weights on the threads of `w`. */
void fb_binding_unpack(
    const struct fb_binding *b, struct fb_workers *w, const struct fb_unpack *unpacks, int n);

/* Reads the ids of a group's layer, which are in the machine's memory (routing.h), and tells the
 * observer, if there is one. Fails the graph when one of them is not the number of an expert. */
enum ggml_status fb_binding_read_routes(
    struct fb_binding *b, struct fb_routing *routing, const struct ggml_tensor *ids, int group);

/* Records why the graph fails, for fb_binding_take_error. Returns GGML_STATUS_FAILED. */
enum ggml_status fb_binding_fail(struct fb_binding *b, const struct forebay_error *err);

#endif
