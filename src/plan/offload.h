/*
 * offload.h - how many layers are offloaded to a device with memory of its own: a pure function.
 *
 * The device's memory is filled in llama.cpp's order (the end of the model first):
 *   1. the output, then the layers from the last to the first, each with its KV cache but without
 *      its experts: every token needs every byte of these;
 *   2. when all layers fit, the experts of whole layers, again from the last to the first.
 * The rest stays with the CPU: layers at the front, and experts of layers at the front.
 *
 *      layer     0    1    2    3    4    5   output
 *      dense     CPU  CPU  dev  dev  dev  dev  dev        n_layers 4, n_whole 0
 *
 *      dense     dev  dev  dev  dev  dev  dev  dev        n_layers 6, n_whole 2
 *      experts   CPU  CPU  CPU  CPU  dev  dev
 *
 *   or, instead of 2: slots on the device, through which the experts of all layers pass
 *
 *      dense     dev  dev  dev  dev  dev  dev  dev        n_layers 6, n_slotted 6
 *      experts   slots slots ...
 *
 *   or, in a model without experts: the FFNs of layers in place of experts (ffns.h)
 *
 *      the rest  dev  dev  dev  dev  dev  dev  dev        n_layers 6, n_whole 2, ffns_apart
 *      FFNs      CPU  CPU  CPU  CPU  dev  dev
 */
#ifndef FB_PLAN_OFFLOAD_H
#define FB_PLAN_OFFLOAD_H

#include "model/catalog.h"

struct fb_offload_plan {
    bool output;          /* false: nothing is on the device */
    int n_layers;         /* the last ones of the model, without their experts */
    int n_whole;          /* the last ones of these, with their experts */
    int n_slotted;        /* those before these whose experts the device computes from slots */
    bool ffns_apart;      /* n_whole counts FFNs; those of all other layers are the CPU's */
    uint64_t slots_bytes; /* of the device's memory, for these */
    bool slots_shared;    /* the slots are the stream's own (gpu/gpu_shared.h): slots_bytes are for
                           * a transit alone */
    uint64_t weights_bytes;
    uint64_t kv_bytes;
};

/* Fits as much as possible into room_bytes, less reserve_bytes for buffers that are neither weights
 * nor KV cache. `kv_bytes` is the KV cache of all layers, assumed to have equal shares. More room
 * never means less on the device; weights, KV cache and reserve never exceed the room. */
struct fb_offload_plan fb_offload_make(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t room_bytes, uint64_t reserve_bytes);

/* The same with the FFNs of a model without experts placed apart from their layers. */
struct fb_offload_plan fb_offload_make_apart(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t room_bytes, uint64_t reserve_bytes);

/* Weights and KV cache on the device. */
uint64_t fb_offload_bytes(const struct fb_offload_plan *plan);

/* llama.cpp's n_gpu_layers, which counts the output as a layer. */
int fb_offload_gpu_layers(const struct fb_offload_plan *plan);

#endif
