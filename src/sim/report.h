/*
 * report.h - the options of a simulation and its results.
 */
#ifndef FB_SIM_REPORT_H
#define FB_SIM_REPORT_H

#include <stdbool.h>
#include <stdint.h>

struct fb_sim_options {
    const char *policy;      /* of the cache; NULL: that of a run */
    int slots;               /* of every layer; 0: as many as mem_bytes allows */
    uint64_t mem_bytes;      /* for weights, planned as for a run */
    double disk_bytes_per_s; /* > 0 */
    double latency_s;        /* of each read */
    double compute_s;        /* of each token */
    int lookahead; /* layers ahead for which a token's experts are prefetched, all rightly */
    int warm_up;   /* decode tokens not counted; negative: a quarter, at most 64 */
    bool repack;   /* plan as on a CPU that repacks quantised weights */
    bool prefill;  /* replay the prefill tokens too, before and between the others */
    /* A device that computes all experts from slots of its own; both 0: none. */
    uint64_t device_bytes;     /* of the device, for slots and transit */
    int device_slots;          /* instead: of every layer */
    double upload_bytes_per_s; /* between RAM and the device, > 0 */
};

/* Sums over some tokens. */
struct fb_sim_figures {
    uint64_t tokens;
    uint64_t requests; /* one expert needed by one token at one layer; not a hit of the device */
    uint64_t hits;     /* of requests: present when needed */
    uint64_t expert_bytes; /* read */
    uint64_t dense_bytes;  /* read, because not all dense weights are resident */
    double seconds;        /* virtual */
    double stall_s;        /* of seconds, waiting for reads */
    /* With a device: */
    uint64_t device_requests; /* one expert needed by one token at one layer */
    uint64_t device_hits;     /* of these, in a slot of the device */
    uint64_t upload_bytes;    /* copied to the device */
    uint64_t back_bytes;      /* copied back from it: experts that lost their slot */
    double copy_s;            /* of seconds, copying in both directions */
};

struct fb_sim_layer {
    int layer; /* number in the model */
    int slots; /* 0: all layers share one pool */
    int device_slots;
    uint64_t expert_bytes; /* of one expert */
    /* Over the decode tokens that count: */
    uint64_t requests, hits;
    uint64_t device_requests, device_hits;
    uint64_t optimum_hits;
};

struct fb_sim_report {
    char model[160]; /* name and shape of the model, for messages */
    char trace[256]; /* the same of the trace */
    const char *policy;
    double disk_bytes_per_s;
    int warm_up;
    int n_layers;
    struct fb_sim_layer *layers;                 /* [n_layers] */
    int n_slots;                                 /* in all */
    int n_experts;                               /* in all */
    bool shared;                                 /* all layers share one pool of slots */
    uint64_t cache_bytes;                        /* slots */
    uint64_t resident_bytes;                     /* resident dense weights */
    uint64_t memory_bytes;                       /* all memory for weights, at any time */
    struct fb_sim_figures prefill, warm, decode; /* warm: decode tokens that do not count */
    int n_device_slots;                          /* in all; 0: no device */
    uint64_t device_slot_bytes;                  /* of all of them */
    uint64_t optimum_hits, optimum_bytes;        /* to compare with `decode`; of all slots */
};

#endif
