/*
 * estimate.h - how fast a plan will run: a pure function of weights, plan, machine and hit curves.
 *
 * One token, per layer:        compute = bytes of weights / rate of their type + operations x op_s
 *                                        + attention to the tokens before it
 *                                        + what reads ahead take of the processors' time
 *                              read    = bytes that are not in memory / disk
 *                              arrive  = bytes read that must be repacked / rate of repacking
 *
 *   dense weights that are streamed are read ahead:  the longer of read and (compute + arrive)
 *   experts that are foreseen are read while everything else is computed; the others when the router
 *   has chosen: a pipeline of three parts, of which one arrives while the next is read
 *
 * A limited disk lets a burst through after a rest: while something is computed it rests, so a read
 * takes as long as in a burst, but all of them together no less than at the sustained speed.
 *
 * A batch needs each of a layer's experts once: the share of them that any of its tokens uses.
 */
#ifndef FB_PLAN_ESTIMATE_H
#define FB_PLAN_ESTIMATE_H

#include "hw/profile.h"
#include "plan/plan.h"

/* What estimating needs to know of the machine and the run. */
struct fb_speed_inputs {
    const struct fb_weights *weights;
    const struct fb_plan *plan; /* NULL: all weights are in memory */
    const struct fb_curves *curves;
    const struct fb_profile *profile;   /* with rates of all types of the weights */
    const char *(*type_name)(int type); /* ggml's */
    int threads;
    bool repack;
    double disk_bytes_per_s, disk_latency_s;
    double disk_burst;         /* at least 1: how many times as fast after a rest */
    double foreseen;           /* share of the experts read that lookahead reads ahead */
    uint64_t context_bytes;    /* KV cache and intermediate results: zeroed when loading */
    uint64_t unclaimed_bytes;  /* weights that llama.cpp keeps: read when loading */
    uint64_t other_bytes;      /* weights that llama.cpp keeps and a token touches */
    double attention_s;        /* of one token, and ... */
    double prompt_attention_s; /* ... of one of a prompt's many */
    double read_cpu_s;         /* of the processors' time, that a byte read ahead takes */
    double compute_s; /* of one token, as earlier runs showed, without both; 0: from the profile */
    double prompt_compute_s; /* of one of a prompt's many, with its attention */
    uint32_t batch;          /* tokens per pass of a prompt */
};

struct fb_speed {
    double decode_tok_per_s;
    double prompt_tok_per_s; /* for a prompt of one full batch */
    /* One token while generating: */
    double hit_rate; /* of expert requests */
    double read_bytes;
    double read_s, compute_s, unpack_s;
    double load_s;     /* reading what is resident, and allocating the memory for the rest */
    const char *limit; /* "the disk", "computing", "repacking" */
};

void fb_estimate(const struct fb_speed_inputs *inputs, struct fb_speed *out);

#endif
