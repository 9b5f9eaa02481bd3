/* fingerprint.c - which states of sequences belong to a loaded model: those that it would compute
 * with the same bits. */
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/units.h"
#include "engine/model.h"
#include "engine/model_options.h"
#include "os/cpu.h"
#include "os/memory.h"
#include "sidecar/format.h"

static uint64_t mix_text(uint64_t hash, const char *text)
{
    return fb_hash64(text, strlen(text) + 1, hash);
}

static enum forebay_status mix_files(
    const struct fb_catalog *c, uint64_t *hash, struct forebay_error *err)
{
    uint64_t content;
    enum forebay_status status = fb_sidecar_fingerprint(c, &content, err);
    *hash = fb_hash64(&content, sizeof content, *hash);
    for (int i = 0; status == FOREBAY_OK && i < c->n_files; i++) {
        uint64_t file[] = {c->files[i]->size, c->files[i]->identity[2]};
        *hash = fb_hash64(file, sizeof file, *hash);
    }
    return status == FOREBAY_OK ? fb_sidecar_mix_tensors(c, hash, err) : status;
}

/* Everything else that changes the values: the kernels, the layouts and devices they compute with,
 * and the size of a pass. The cache types and flash attention follow from `claimed` and the device.
 * The number of threads does not change the values of a prompt. */
static uint64_t mix_settings(const struct forebay_model *m, uint64_t hash)
{
    const struct forebay_model_options *o = fb_model_options(m);
    uint64_t claimed = m->binding != NULL;
    uint64_t settings[] = {o->repack, claimed, o->plain && o->mmap, o->batch};
    hash = mix_text(hash, forebay_llama_version());
    hash = mix_text(hash, fb_cpu_name());
    for (int d = 0; d < m->placement.n_devices; d++) {
        const struct forebay_device_use *device = &m->placement.devices[d];
        uint64_t layers[] = {
            (uint64_t)device->n_layers, (uint64_t)device->n_whole, (uint64_t)device->n_slotted};
        hash = fb_hash64(layers, sizeof layers, mix_text(hash, device->name));
    }
    uint64_t prompt_rows = (uint64_t)fb_devices_prompt_rows(&m->preflight->devices);
    if (prompt_rows > 0) {
        hash = fb_hash64(&prompt_rows, sizeof prompt_rows, hash);
    }
    return fb_hash64(settings, sizeof settings, hash);
}

enum forebay_status forebay_state_fingerprint(
    const struct forebay_model *m, uint64_t *out, struct forebay_error *err)
{
    uint64_t hash = mix_settings(m, 0);
    enum forebay_status status = mix_files(m->preflight->catalog, &hash, err);
    if (status == FOREBAY_OK) {
        *out = hash;
    }
    return status;
}
