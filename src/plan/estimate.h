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
 * Devices take their time for the weights that they hold, one after another with the CPU. A layer
 * whose experts a device computes from slots also takes a turn: the router's ids are read back, and
 * experts that miss the slots are copied before they are computed with.
 *
 * A batch needs each of a layer's experts once: the share of them that any of its tokens uses.
 */
#ifndef FB_PLAN_ESTIMATE_H
#define FB_PLAN_ESTIMATE_H

#include "hw/profile.h"
#include "plan/device_slots.h"
#include "plan/offload.h"
#include "plan/plan.h"

/* Devices beside the CPU. The weights that they hold are not among the inputs' weights; experts
 * that pass through slots are. */
struct fb_speed_devices {
    double decode_s, prompt_s;  /* for what they hold: a token, and a full batch */
    int n_layers;               /* of the model, that they compute */
    const char *prompts;        /* the one that computes full batches with the dense weights, which
                                 * are copied to it; NULL: none does */
    const char *slotted;        /* the one with slots, as in the profile; NULL: none has */
    int first_layer, end_layer; /* whose experts it computes */
    struct fb_device_slots slots;
    bool
        slots_shared; /* `slots` is not used: they are those in RAM, from which nothing is copied */
};

/* The machine and the run. */
struct fb_speed_inputs {
    const struct fb_speed_devices *devices; /* NULL: none */
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
    const char *limit; /* "the disk", "computing", "repacking", "the device" */
};

/* Rates of a tensor's products on a device; 0: not known. */
struct fb_device_rates {
    double decode; /* bytes of weights per second, one token */
    double batch;  /* multiply-adds per second, many tokens */
};
struct fb_device_rates fb_estimate_device_rates(
    const struct fb_speed_inputs *inputs, const char *device, const struct fb_tensor *tensor);

/* Seconds that devices take for the weights that they hold by the plan, for `tokens` at once, and
 * the bytes of these that a token uses. `names`: of the devices, as in the profile. False when the
 * profile lacks a rate. */
bool fb_estimate_held(const struct fb_speed_inputs *inputs, const struct fb_offload_plan *plan,
    const char *const *names, double tokens, double *seconds, uint64_t *bytes);

void fb_estimate(const struct fb_speed_inputs *inputs, struct fb_speed *out);

#endif
