/*
 * sim.h - what a cache would have made of a real model's routing: hit rates, bytes, speed.
 *
 * Replays a routing trace (model/trace.h) through the cache and stream code that runs models, on a
 * disk that is only thought of and a virtual clock (io/sim.c), and beside it the optimum that knows
 * the future (belady.h). No weight is read and no memory for weights is touched. docs/SIM.md says
 * what the figures mean. The same input gives the same figures on every machine.
 */
#ifndef FB_SIM_SIM_H
#define FB_SIM_SIM_H

#include "forebay.h"

struct fb_sim_options {
    const char *policy;      /* of the cache; NULL: that of a run */
    int slots;               /* of every layer; 0: what mem_bytes gives */
    uint64_t mem_bytes;      /* for weights, planned as for a run */
    double disk_bytes_per_s; /* > 0 */
    double latency_s;        /* of each read */
    double compute_s;        /* of each token */
    int lookahead;           /* layers ahead for which a token's experts are foreseen, rightly */
    int warm_up;             /* decode tokens not counted; negative: a quarter, at most 64 */
    bool repack;             /* plan for weights that this CPU computes with in another layout */
    bool prefill;            /* replay the prefill tokens too, before and between the others */
};

void fb_sim_options_init(struct fb_sim_options *options);

/* What some tokens came to. */
struct fb_sim_figures {
    uint64_t tokens;
    uint64_t requests;     /* one expert needed by one token at one layer */
    uint64_t hits;         /* in memory when asked for */
    uint64_t expert_bytes; /* read */
    uint64_t dense_bytes;  /* read: weights that every token needs and memory has no room for */
    double seconds;        /* virtual */
    double stall_s;        /* of these, waiting for reads */
};

struct fb_sim_layer {
    int layer;             /* number in the model */
    int slots;             /* 0: all layers share one pool */
    uint64_t expert_bytes; /* of one expert */
    /* Over the decode tokens that count: */
    uint64_t requests, hits;
    uint64_t optimum_hits;
};

struct fb_sim_report {
    char model[160]; /* what was simulated, and its shape, in words */
    char trace[256]; /* the same of the trace */
    const char *policy;
    double disk_bytes_per_s;
    int warm_up;
    int n_layers;
    struct fb_sim_layer *layers;
    int n_slots;                                 /* in all */
    int n_experts;                               /* in all */
    bool shared;                                 /* the slots are one pool of all layers */
    uint64_t cache_bytes;                        /* slots */
    uint64_t resident_bytes;                     /* dense weights kept */
    uint64_t memory_bytes;                       /* all that the weights take */
    struct fb_sim_figures prefill, warm, decode; /* warm: decode tokens that do not count */
    uint64_t optimum_hits, optimum_bytes;        /* beside `decode` */
};

/* `model` is a GGUF, of which only the header is read, or a shape: "LAYERSxEXPERTS,USED,BYTES",
 * such as "48x128,6,2.6M": 48 layers of 128 experts of 2.6 MiB, of which a token uses 6.
 * Errors: E_USAGE (a bad shape, a policy that does not exist, a trace of another shape), E_NOFIT,
 * and those of fb_catalog_open and fb_trace_read. */
enum forebay_status fb_sim_run(const char *model, const char *trace,
    const struct fb_sim_options *options, struct fb_sim_report *out, struct forebay_error *err);
void fb_sim_report_release(struct fb_sim_report *report);

const char *fb_sim_policy_names(void); /* for the help */

#endif
