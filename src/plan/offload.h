/*
 * offload.h - how many layers are offloaded to devices with memory of their own: pure functions.
 *
 * The devices' memory is filled in llama.cpp's order (the end of the model first), one device after
 * the other:
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
 *   or, instead of 2: slots on the device, through which the experts of layers pass
 *
 *      dense     dev  dev  dev  dev  dev  dev  dev        n_layers 6, n_slotted 6
 *      experts   slots slots ...
 *
 *   or on two devices:
 *
 *      dense     2nd  2nd  2nd  2nd  1st  1st  1st        n_layers 6, n_whole 3, layers_on 2, 4
 *      experts   CPU  CPU  CPU  2nd  1st  1st
 *
 *   or, in a model without experts: the FFNs of layers in place of experts (ffns.h)
 *
 *      the rest  dev  dev  dev  dev  dev  dev  dev        n_layers 6, n_whole 2, ffns_apart
 *      FFNs      CPU  CPU  CPU  CPU  dev  dev
 *
 * A plan's *extent* is how much of a model of L layers it has on devices: 0 is the output alone, 1
 * to L the output and as many layers, L + 1 to 2 L all layers and the experts (or FFNs) of 1 to L
 * of them.
 */
#ifndef FB_PLAN_OFFLOAD_H
#define FB_PLAN_OFFLOAD_H

#include "forebay.h"
#include "model/catalog.h"

struct fb_offload_plan {
    bool output;          /* false: nothing is on a device */
    int n_layers;         /* the last ones of the model, without their experts */
    int n_whole;          /* the last ones of these, with their experts */
    int n_slotted;        /* those before these whose experts a device computes from slots */
    bool ffns_apart;      /* n_whole counts FFNs; those of all other layers are the CPU's */
    uint64_t slots_bytes; /* of that device's memory, for these */
    bool slots_shared;    /* the slots are the stream's own (gpu/gpu_shared.h): slots_bytes are for
                           * a transit alone */
    uint64_t weights_bytes;
    uint64_t kv_bytes;
    int output_device;                  /* the first device that has anything */
    int layers_on[FOREBAY_DEVICES];     /* n_layers, by device */
    uint64_t bytes_on[FOREBAY_DEVICES]; /* weights and KV cache, by device */
};

/* Memory for weights and KV cache on each device, in the order in which they are filled. */
struct fb_offload_rooms {
    int n;
    uint64_t bytes[FOREBAY_DEVICES];
};

/* Fits as much as possible into the rooms. `kv_bytes` is the KV cache of all layers, assumed to
 * have equal shares. `ffns_apart`: of a model without experts, FFNs are placed apart from their
 * layers. More room never means a smaller extent; no device exceeds its room. */
struct fb_offload_plan fb_offload_make(const struct fb_catalog *catalog, uint64_t kv_bytes,
    bool ffns_apart, const struct fb_offload_rooms *rooms);

/* The plan of this extent, or of a later one that takes no more memory, because layers without
 * experts are whole. False when the rooms are too small for it; *out is then undefined. */
bool fb_offload_at(const struct fb_catalog *catalog, uint64_t kv_bytes, bool ffns_apart,
    const struct fb_offload_rooms *rooms, int extent, struct fb_offload_plan *out);

/* The plan's extent; -1: nothing is on a device. And that of the whole model. */
int fb_offload_extent(const struct fb_offload_plan *plan);
int fb_offload_whole_extent(const struct fb_catalog *catalog);

/* Weights and KV cache on devices. */
uint64_t fb_offload_bytes(const struct fb_offload_plan *plan);

/* llama.cpp's n_gpu_layers, which counts the output as a layer. */
int fb_offload_gpu_layers(const struct fb_offload_plan *plan);

/* Whether something of the plan is on the device. */
bool fb_offload_uses(const struct fb_offload_plan *plan, int device);

/* The device that has the layer without its experts; -1: none. */
int fb_offload_device_of(const struct fb_offload_plan *plan, int n_layer, int layer);

/* The device that holds the tensor for good; -1: none does. llama.cpp leaves the embeddings with
 * the CPU. */
int fb_offload_holder(
    const struct fb_offload_plan *plan, const struct fb_catalog *catalog, int tensor);

/* --- The largest plan that fits, by measuring ----------------------------------------------- */

/* Sets bytes_on[d] to the memory that the plan would take on each device. */
typedef enum forebay_status (*fb_offload_measure)(
    void *user, const struct fb_offload_plan *plan, uint64_t *bytes_on, struct forebay_error *err);

/* The plan with the largest extent that fits into the rooms by the measure. It is found by
 * bisecting over the extents, guided by the error of the estimate: the buffers for intermediate
 * results belong to no layer, and layers may have KV caches of different sizes. The memory that an
 * extent takes need not grow with it: the last layer, or the last experts, may make buffers for the
 * exchange with the CPU unnecessary, so the two extents that end the exchange are tried, too, if
 * their weights fit. `reserve_bytes`: first guess of those buffers. */
enum forebay_status fb_offload_search(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t reserve_bytes, bool ffns_apart, const struct fb_offload_rooms *rooms,
    fb_offload_measure measure, void *user, struct fb_offload_plan *out, struct forebay_error *err);

#endif
