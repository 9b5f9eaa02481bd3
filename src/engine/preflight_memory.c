/* preflight_memory.c - what a model takes besides the weights that are planned. */
#include "base/error.h"
#include "base/units.h"
#include "engine/model_options.h"
#include "engine/preflight.h"
#include "os/memory.h"

/* See own_bytes. */
#define PROGRAM_BYTES (32 * FB_MIB)
#define HEADER_FACTOR 8

uint64_t fb_preflight_host_bytes(const struct fb_preflight *p)
{
    return fb_devices_used(&p->devices) ? p->needs.weights_bytes : p->catalog->tensor_bytes;
}

uint64_t fb_preflight_unclaimed_bytes(const struct fb_preflight *p, const struct fb_weights *ws)
{
    uint64_t bytes = fb_preflight_host_bytes(p);
    for (int i = 0; i < ws->n_weights; i++) {
        bytes -= fb_min(bytes, p->catalog->tensors[ws->weights[i].tensor].bytes);
    }
    return bytes;
}

/* Beside a device, the CPU also holds the copies of activations that move between the two. */
uint64_t fb_preflight_later_bytes(const struct fb_preflight *p)
{
    if (!fb_devices_used(&p->devices)) {
        return 0;
    }
    return p->needs.compute_bytes + fb_devices_shared_compute_bytes(&p->devices, &p->needs);
}

/* Intermediate results on our device. Beside another one, these are the CPU backend's. */
static uint64_t results_bytes(const struct fb_preflight *p)
{
    return fb_devices_used(&p->devices) ? 0 : p->needs.compute_bytes;
}

/* All that llama.cpp will allocate besides. */
static uint64_t pending_bytes(const struct fb_preflight *p)
{
    return fb_preflight_unclaimed_bytes(p, fb_binding_weights(p->measuring)) + p->needs.kv_bytes +
           p->needs.compute_bytes - results_bytes(p) +
           fb_devices_shared_bytes(&p->devices, &p->needs);
}

/* Memory of a plain model. llama.cpp loads one tensor at a time through a buffer. */
static uint64_t plain_bytes(const struct fb_preflight *p)
{
    uint64_t largest = 0;
    for (int i = 0; i < p->catalog->n_tensors; i++) {
        largest = fb_max(largest, p->catalog->tensors[i].bytes);
    }
    return fb_preflight_host_bytes(p) + fb_devices_shared_bytes(&p->devices, &p->needs) + largest +
           p->needs.kv_bytes + p->needs.compute_bytes + FB_PROCESS_SLACK_BYTES + fb_memory_rss();
}

enum forebay_status fb_preflight_check_plain(
    const struct fb_preflight *p, struct forebay_error *err)
{
    struct fb_memory_state state;
    fb_memory_state(&state);
    uint64_t needed = plain_bytes(p), room = fb_memory_headroom(&state) + fb_memory_rss();
    if (needed > room) {
        return fb_fail(err, FOREBAY_E_NOFIT, "Verify on a machine with more memory.",
            "plain llama.cpp needs %s in all, %s is free", FB_SIZE(needed), FB_SIZE(room));
    }
    return FOREBAY_OK;
}

struct fb_budget fb_preflight_budget(
    const struct fb_preflight *p, uint64_t pending, uint64_t results)
{
    return (struct fb_budget){
        .process_bytes = p->options.mem_bytes,
        .minimum_bytes = p->minimum_bytes,
        .weights_bytes = p->options.weights_mem_bytes,
        .pending_bytes = pending + p->options.caller_bytes,
        .results_bytes = results,
        .ctx = fb_options_cells(&p->options),
        .batch = p->options.batch,
        .settles = p->options.caller_bytes == 0,
        .rows = fb_devices_used(&p->devices) ? 0 : p->options.n_seq,
        .curves = p->curves,
    };
}

/* Memory of the process without the model: the program, the file's header and llama.cpp's copy of
 * the vocabulary. From the file and not from the resident set, which differs from run to run; only
 * what a program that we are a part of held before is added. Measured: 17 MiB for 1,000 tokens, 42
 * MiB for 150,000, whose header has 3.4 MiB. */
static uint64_t own_bytes(const struct fb_preflight *p)
{
    uint64_t header = p->catalog->n_tensors ? p->catalog->tensors[0].offset : 0;
    uint64_t before = p->before_bytes - fb_min(p->before_bytes, PROGRAM_BYTES);
    return PROGRAM_BYTES + HEADER_FACTOR * header + fb_round_up(before, PROGRAM_BYTES);
}

struct fb_budget fb_preflight_expected(const struct fb_preflight *p)
{
    return fb_preflight_budget(p, pending_bytes(p), results_bytes(p));
}

uint64_t fb_preflight_least_bytes(const struct fb_preflight *p)
{
    struct fb_budget budget = fb_preflight_expected(p);
    return fb_binding_minimum(p->measuring, &budget, own_bytes(p));
}

uint64_t fb_preflight_weights_room(const struct fb_preflight *p)
{
    uint64_t taken = pending_bytes(p) + results_bytes(p) + p->options.caller_bytes + own_bytes(p);
    uint64_t given = p->options.weights_mem_bytes;
    return given ? given : p->options.mem_bytes - fb_min(p->options.mem_bytes, taken);
}
