/*
 * plugin.c - libggml-forebay.so: the device inside anyone's llama.cpp (GGML_BACKEND_PATH).
 *
 * There is no engine here, so everything happens when llama.cpp calls the device:
 *
 *   first weight offered   the model is the GGUF among the process's open files that has this
 *                          weight: its catalogue is opened and bound
 *   first graph            budget and plan are made, resident weights are read
 *   last weights freed     everything is released; the next model may be loaded
 *
 * Settings (docs/PLUGIN.md): FOREBAY_MEM, FOREBAY_IO, FOREBAY_REPACK, FOREBAY_LOG.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/device.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/open_files.h"

#define EXPORT __attribute__((visibility("default")))

/* The context's size is not known here; this reserves memory for masks and logits. */
#define ASSUMED_CTX   4096
#define ASSUMED_BATCH 512

static struct {
    /* Settings: */
    uint64_t mem_bytes; /* 0: a safe default */
    const char *io;
    bool repack;
    bool warned; /* that a model is not streamed; once per process */
    /* The model: */
    struct fb_catalog *catalog;
    struct fb_binding *binding; /* NULL: none */
    struct fb_plan *plan;
    bool failed; /* its start did, which was logged */
} plugin;

static void read_settings(void)
{
    const char *mem = getenv("FOREBAY_MEM"), *repack = getenv("FOREBAY_REPACK");
    const char *io = getenv("FOREBAY_IO"), *log = getenv("FOREBAY_LOG");
    plugin.io = io && *io ? io : "auto";
    plugin.repack = !repack || strcmp(repack, "0") != 0;
    forebay_log_set_level(log && strcmp(log, "0") == 0 ? FOREBAY_LOG_WARN : FOREBAY_LOG_INFO);
    if (mem && *mem && !fb_parse_size(mem, &plugin.mem_bytes)) {
        fb_log(
            FOREBAY_LOG_ERROR, "FOREBAY_MEM=%s is not a size such as 8G; using the default", mem);
    }
}

/* --- Finding the model --------------------------------------------------------------------- */

/* Whether the file is a model that has the weight `user`; if so, its catalogue is kept. */
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
        plugin.catalog = c;
        return true;
    }
    fb_catalog_free(c);
    return false;
}

static void offered(const struct ggml_tensor *weight)
{
    if (fb_open_files(has_weight, (void *)weight)) {
        plugin.binding = fb_binding_new(plugin.catalog, plugin.repack, false);
        plugin.failed = false;
    } else if (!plugin.warned) {
        fb_warn("no open .gguf file has %s: this model is not streamed", weight->name);
        plugin.warned = true;
    }
}

/* --- Starting ------------------------------------------------------------------------------ */

static enum forebay_status start(struct forebay_error *err)
{
    uint64_t bytes = plugin.mem_bytes ? plugin.mem_bytes : fb_memory_default_budget();
    struct fb_budget b = {.process_bytes = bytes, .ctx = ASSUMED_CTX, .batch = ASSUMED_BATCH};
    struct fb_io_options io;
    uint64_t held;
    fb_io_options_init(&io);
    io.method = plugin.io;
    enum forebay_status status = fb_binding_plan(plugin.binding, &b, &plugin.plan, &held, err);
    if (status == FOREBAY_OK) {
        fb_info("%s of weights: %s resident, %s of expert slots, %s streamed per pass",
            FB_SIZE(plugin.catalog->tensor_bytes), FB_SIZE(plugin.plan->resident_bytes),
            FB_SIZE(plugin.plan->cache_bytes), FB_SIZE(plugin.plan->streamed_bytes));
        status = fb_binding_start(plugin.binding, plugin.plan, &io, NULL, NULL, err);
    }
    return status;
}

static bool computing(struct forebay_error *err)
{
    if (!plugin.binding || fb_binding_stream(plugin.binding)) {
        return true;
    }
    if (!plugin.failed && start(err) != FOREBAY_OK) {
        fb_log(FOREBAY_LOG_ERROR, "%s (%s)", err->message, err->hint);
        plugin.failed = true;
    }
    return !plugin.failed;
}

static void model_freed(void)
{
    fb_binding_free(plugin.binding);
    fb_plan_free(plugin.plan);
    fb_catalog_free(plugin.catalog);
    plugin.binding = NULL;
    plugin.plan = NULL;
    plugin.catalog = NULL;
}

/* --- Symbols that ggml looks up ------------------------------------------------------------- */

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
