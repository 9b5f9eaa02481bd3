/*
 * device_state.h - all mutable state of the device that belongs to the process.
 *
 * ggml knows devices, buffer types and buffers, and passes none of our own data with most calls. So
 * the device has to find the model it serves through a variable of the process. It is here, with
 * the objects that ggml holds pointers to, the shuffles learnt so far, and the constants that tests
 * change.
 *
 * Threads: belongs to the thread that loads, computes and frees; only `shuffles` is for any thread.
 */
#ifndef FB_BACKEND_DEVICE_STATE_H
#define FB_BACKEND_DEVICE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "ggml-backend-impl.h"

#include "forebay.h"

struct fb_binding;
struct fb_shuffle;

/* The calls that the device makes when it is a plug-in, where no engine prepares things for it
 * (plugin.c). */
struct fb_device_hooks {
    void (*offered)(const struct ggml_tensor *weight); /* before the first offer of a model */
    bool (*computing)(struct forebay_error *err);      /* before each graph; false: fails it */
    void (*model_freed)(void);                         /* the last buffer of weights is gone */
};

struct fb_device_state {
    /* Filled by fb_device_reg (device.h). */
    struct ggml_backend_reg reg;
    struct ggml_backend_device device;
    struct ggml_backend_buffer_type buft;
    struct ggml_backend_buffer_type gpu_buft;     /* of experts that are given to a GPU */
    struct ggml_backend_buffer_type compute_buft; /* of activations, where `buft` is for weights
                                                   * only (fb_binding_give_prompts) */
    bool registered;

    struct fb_binding *bound;            /* the model that is served; NULL: nothing is claimed */
    const struct fb_device_hooks *hooks; /* NULL in our own program */
    int n_model_buffers;                 /* buffers of weights that exist */

    /* A list that only grows; its entries are immutable and never freed (shuffle.c). */
    _Atomic(struct fb_shuffle *) shuffles;

    /* Tests lower these: */
    uint64_t calm_ns;         /* how long memory must be plentiful before weights may hold more */
    uint64_t use_interval_ns; /* between two readings of the processors' use, which has a
                               * resolution of some 10 ms */
    uint64_t block_bytes;     /* of gathered rows and their results (gather.h) */
};

extern struct fb_device_state fb_device;

#endif
