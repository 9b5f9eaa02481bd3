#include "engine/model_options.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/machine.h"
#include "ggml.h"
#include "io/io.h"
#include "model/meta.h"
#include "os/memory.h"
#include "plan/batch_size.h"
#include "plan/context.h"

#define CELLS_MAX (1u << 30)

void forebay_model_options_init(struct forebay_model_options *options)
{
    *options = (struct forebay_model_options){.repack = true,
        .io_method = "auto",
        .lookahead = 1,
        .lookahead_recall = 1,
        .device = "auto",
        .device_experts = "auto",
        .sidecar = "auto"};
}

enum forebay_status fb_options_fill(struct forebay_model_options *o, struct forebay_error *err)
{
    if (o->threads == 0) {
        o->threads = fb_machine_threads();
    }
    if (o->threads < 1 || o->threads > GGML_MAX_N_THREADS) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%d threads: must be 1 to %d", o->threads,
            GGML_MAX_N_THREADS);
    }
    o->batch = o->batch ? o->batch : FB_BATCH_USUAL;
    o->n_seq = o->n_seq ? o->n_seq : 1;
    if (o->n_seq > FB_SEQ_MAX || o->n_kept > FB_SEQ_MAX - o->n_seq) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "%u sequences and %u kept: %d in all at most",
            o->n_seq, o->n_kept, FB_SEQ_MAX);
    }
    o->io_method = o->io_method ? o->io_method : "auto";
    o->device = o->device ? o->device : "auto";
    o->device_experts = o->device_experts ? o->device_experts : "auto";
    int n_whole;
    if (strcmp(o->device_experts, "auto") != 0 && strcmp(o->device_experts, "layers") != 0 &&
        !fb_options_slots(o, &n_whole)) {
        return fb_fail(err, FOREBAY_E_USAGE, "They can be auto, layers, slots or slots:N.",
            "experts on a device: '%s' is unknown", o->device_experts);
    }
    o->sidecar = o->sidecar ? o->sidecar : "auto";
    enum forebay_status status = fb_io_check_method(o->io_method, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    o->mem_bytes = o->mem_bytes ? o->mem_bytes : fb_memory_default_budget();
    return FOREBAY_OK;
}

/* "slots" and "slots:3" with that word. */
static bool is_number_of(const char *text, const char *word, int *n)
{
    char format[32], end;
    *n = 0;
    snprintf(format, sizeof format, "%s:%%5d%%c", word);
    return strcmp(text, word) == 0 || (sscanf(text, format, n, &end) == 1 && *n >= 0);
}

bool fb_options_slots(const struct forebay_model_options *o, int *n_whole)
{
    return is_number_of(o->device_experts, "slots", n_whole) ||
           is_number_of(o->device_experts, "copies", n_whole);
}

bool fb_options_share_slots(const struct forebay_model_options *o)
{
    return strncmp(o->device_experts, "copies", 6) != 0 && strcmp(o->device_experts, "layers") != 0;
}

enum forebay_status fb_options_fill_ctx(
    struct forebay_model_options *o, const struct fb_catalog *catalog, struct forebay_error *err)
{
    uint64_t trained = fb_meta_arch_uint(catalog->meta, catalog->arch, "context_length", 0);
    uint64_t usual = trained > 0 ? fb_min(trained, FB_CONTEXT_LEAST) : FB_CONTEXT_LEAST;
    o->ctx = o->ctx ? o->ctx : (uint32_t)usual;
    o->batch = (uint32_t)fb_min(o->batch, o->ctx);
    if ((uint64_t)o->ctx * o->n_seq > CELLS_MAX) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a smaller --ctx.",
            "a context of %u tokens for each of %u sequences is too much", o->ctx, o->n_seq);
    }
    return FOREBAY_OK;
}

uint32_t fb_options_longest_ctx(
    const struct forebay_model_options *o, const struct fb_catalog *catalog)
{
    uint64_t trained = fb_meta_arch_uint(catalog->meta, catalog->arch, "context_length", 0);
    return (uint32_t)fb_max(o->ctx, fb_min(trained, CELLS_MAX / o->n_seq));
}

uint32_t fb_options_sequences(const struct forebay_model_options *o)
{
    return o->n_seq + o->n_kept;
}

uint32_t fb_options_cells(const struct forebay_model_options *o)
{
    return o->ctx * o->n_seq;
}

bool fb_options_map_file(const struct forebay_model_options *o)
{
    return o->plain && o->mmap;
}
