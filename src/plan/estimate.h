/*
 * estimate.h - the expected speed of a plan: a pure function of weights, plan, machine and hit
 * curves.
 *
 * One token, per layer:    compute = bytes of weights / rate of their type + operations x op_s
 *                                    + attention to the tokens before it
 *                                    + processor time for prefetches
 *                          read    = bytes that are not in memory / disk speed
 *                          unpack  = bytes read that must be repacked / rate of repacking
 *
 *   Streamed dense weights are prefetched: the longer of read and (compute + unpack) counts.
 *   Experts that lookahead guesses rightly are read while everything else is computed; the others
 *   when the router has chosen, as a pipeline of three parts: one is unpacked while the next is
 *   read.
 *
 * A rate-limited disk allows a burst after a rest. It rests while other work is computed, so a
 * single read takes as long as in a burst, but all reads together no less than at the sustained
 * speed.
 *
 * A batch needs each of a layer's experts once: the share of them that any of its tokens uses.
 */
#ifndef FB_PLAN_ESTIMATE_H
#define FB_PLAN_ESTIMATE_H

#include "hw/profile.h"
#include "plan/plan.h"

/* The machine and the run. */
struct fb_speed_inputs {
    const struct fb_weights *weights;
    const struct fb_plan *plan;         /* NULL: all weights are in memory */
    const struct fb_curves *curves;     /* may be NULL for a model without experts */
    const struct fb_profile *profile;   /* rates of the weights' types */
    const char *(*type_name)(int type); /* ggml_type_name */
    int threads;
    bool repack;
    double disk_bytes_per_s, disk_latency_s;
    double disk_burst;         /* at least 1: speed after a rest, as a multiple */
    double lookahead;          /* share of the experts read that were prefetched rightly */
    uint64_t context_bytes;    /* KV cache and intermediate results: zeroed when loading */
    uint64_t unclaimed_bytes;  /* weights held by llama.cpp: read when loading */
    uint64_t other_bytes;      /* weights held by llama.cpp that each token uses */
    double attention_s;        /* of one generated token, and ... */
    double prompt_attention_s; /* ... of one token of a prompt */
    double read_cpu_s;         /* processor time per prefetched byte */
    double compute_s; /* of one token in earlier runs, without attention and prefetches; 0: none */
    double prompt_compute_s; /* of one token of a prompt in earlier runs, with attention */
    uint32_t batch;          /* tokens per pass of a prompt */
};

struct fb_speed {
    double decode_tok_per_s;
    double prompt_tok_per_s; /* for a prompt of one full batch */
    /* Of one generated token: */
    double hit_rate; /* of expert requests */
    double read_bytes;
    double read_s, compute_s, unpack_s;
    double load_s;     /* reading what is resident, and allocating the memory for the rest */
    const char *limit; /* "the disk", "computing", "repacking" */
};

void fb_estimate(const struct fb_speed_inputs *inputs, struct fb_speed *out);

#endif
