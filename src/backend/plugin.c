/*
 * plugin.c - libggml-forebay.so: the device inside anyone's llama.cpp (GGML_BACKEND_PATH).
 *
 * There is no engine here, so what it does happens when llama.cpp calls the device:
 *
 *   first weight offered   the model is the GGUF among the process's open files that has this
 *                          weight: its catalogue is opened and bound
 *   first graph            budget and plan, the kept weights are read
 *   last weights freed     everything is released; the next model may come
 *
 * Settings (docs/PLUGIN.md): FOREBAY_MEM, FOREBAY_IO, FOREBAY_REPACK, FOREBAY_LOG.
 */
#include "backend/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/open_files.h"

#define EXPORT __attribute__((visibility("default")))

/* Reserve for masks and logits: the context's size is not known here. */
#define ASSUMED_CTX   4096
#define ASSUMED_BATCH 512

static struct {
    uint64_t mem_bytes; /* 0: a safe default */
    const char *io;
    bool repack;
} settings;

static struct fb_catalog *catalog;
static struct fb_plan *plan;
static bool broken; /* the start failed: said once */

static void read_settings(void)
{
    const char *mem = getenv("FOREBAY_MEM"), *repack = getenv("FOREBAY_REPACK");
    const char *io = getenv("FOREBAY_IO"), *log = getenv("FOREBAY_LOG");
    settings.io = io && *io ? io : "auto";
    settings.repack = !repack || strcmp(repack, "0") != 0;
    forebay_log_set_level(log && strcmp(log, "0") == 0 ? FOREBAY_LOG_WARN : FOREBAY_LOG_INFO);
    if (mem && *mem && !fb_parse_size(mem, &settings.mem_bytes)) {
        fb_log(
            FOREBAY_LOG_ERROR, "FOREBAY_MEM=%s is not a size such as 8G; using the default", mem);
    }
}

/* --- Finding the model --------------------------------------------------------------------- */

static bool has_weight(void *user, const char *path)
{
    const struct ggml_tensor *weight = user;
    struct fb_catalog *c;
    size_t n = strlen(path);
    if (n < 5 || strcmp(path + n - 5, ".gguf") != 0 ||
        fb_catalog_open(path, true, &c, NULL) != FOREBAY_OK) {
        return false;
    }
    int i = fb_catalog_find(c, weight->name);
    if (i >= 0 && c->tensors[i].type == (int)weight->type &&
        memcmp(c->tensors[i].ne, weight->ne, sizeof weight->ne) == 0) {
        catalog = c;
        return true;
    }
    fb_catalog_free(c);
    return false;
}

static void offered(const struct ggml_tensor *weight)
{
    static bool said;
    if (fb_open_files(has_weight, (void *)weight)) {
        fb_binding_new(catalog, settings.repack, false);
        broken = false;
    } else if (!said) {
        fb_warn("no open .gguf file has %s: this model is not streamed", weight->name);
        said = true;
    }
}

/* --- Starting ------------------------------------------------------------------------------ */

static enum forebay_status start(struct forebay_error *err)
{
    uint64_t bytes = settings.mem_bytes ? settings.mem_bytes : fb_memory_default_budget();
    struct fb_budget b = {.process_bytes = bytes, .ctx = ASSUMED_CTX, .batch = ASSUMED_BATCH};
    struct fb_io_options io;
    uint64_t held;
    fb_io_options_init(&io);
    io.method = settings.io;
    enum forebay_status status = fb_binding_plan(fb_device.bound, &b, &plan, &held, err);
    if (status == FOREBAY_OK) {
        fb_info("%s of weights: %s kept, %s of expert slots, %s streamed per pass",
            FB_SIZE(catalog->tensor_bytes), FB_SIZE(plan->resident_bytes),
            FB_SIZE(plan->cache_bytes), FB_SIZE(plan->streamed_bytes));
        status = fb_binding_start(fb_device.bound, plan, &io, NULL, NULL, err);
    }
    return status;
}

static bool computing(struct forebay_error *err)
{
    if (!fb_device.bound || fb_device.bound->stream) {
        return true;
    }
    if (!broken && start(err) != FOREBAY_OK) {
        fb_log(FOREBAY_LOG_ERROR, "%s (%s)", err->message, err->hint);
        broken = true;
    }
    return !broken;
}

static void model_freed(void)
{
    fb_binding_free(fb_device.bound);
    fb_plan_free(plan);
    fb_catalog_free(catalog);
    plan = NULL;
    catalog = NULL;
}

/* --- What ggml looks up -------------------------------------------------------------------- */

EXPORT ggml_backend_reg_t ggml_backend_init(void);
EXPORT int ggml_backend_score(void);

EXPORT ggml_backend_reg_t ggml_backend_init(void)
{
    static const struct fb_device_hooks hooks = {offered, computing, model_freed};
    read_settings();
    fb_device.hooks = &hooks;
    return fb_device_reg();
}

EXPORT int ggml_backend_score(void)
{
    return 1;
}
