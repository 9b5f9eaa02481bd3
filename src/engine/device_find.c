/* device_find.c - which devices there are, and how much of their memory may be used. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "engine/devices.h"

/* Left free on a device: its driver and the programs that draw the screen need some memory, and not
 * all of the memory reported as free can be allocated. */
#define RESERVE_BYTES (256 * FB_MIB)
#define RESERVE_SHARE 16

static bool is_gpu(ggml_backend_dev_t dev)
{
    enum ggml_backend_dev_type type = ggml_backend_dev_type(dev);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

/* Renderers that compute on the CPU. ggml reports them as GPUs because it drops Vulkan's device
 * type (VK_PHYSICAL_DEVICE_TYPE_CPU), so they are recognised by their descriptions. */
static bool is_software(ggml_backend_dev_t dev)
{
    static const char *const renderers[] = {"llvmpipe", "lavapipe", "softpipe", "SwiftShader"};
    const char *description = ggml_backend_dev_description(dev);
    for (size_t i = 0; i < sizeof renderers / sizeof renderers[0]; i++) {
        if (strstr(description, renderers[i])) {
            return true;
        }
    }
    return false;
}

/* Whether the device's memory is the machine's: integrated GPUs, Apple's, software renderers. */
static bool shares_memory(ggml_backend_dev_t dev)
{
    const char *backend = ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev));
    return ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_IGPU || is_software(dev) ||
           strcmp(backend, "MTL") == 0;
}

/* Whether both are the same card, through two of ggml's back ends. */
static bool same_card(ggml_backend_dev_t a, ggml_backend_dev_t b)
{
    struct ggml_backend_dev_props x, y;
    ggml_backend_dev_get_props(a, &x);
    ggml_backend_dev_get_props(b, &y);
    return x.device_id && y.device_id && strcmp(x.device_id, y.device_id) == 0;
}

static void add(struct fb_devices *devices, ggml_backend_dev_t dev)
{
    if (devices->n < FOREBAY_DEVICES) {
        devices->all[devices->n++] = (struct fb_device){dev, is_software(dev), shares_memory(dev)};
    }
}

/* All discrete GPUs, each card once, or else the first integrated one. */
static void find_any(struct fb_devices *devices)
{
    ggml_backend_dev_t integrated = NULL;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        bool known = !is_gpu(dev) || is_software(dev);
        for (int d = 0; d < devices->n && !known; d++) {
            known = same_card(devices->all[d].dev, dev);
        }
        if (!known && ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_GPU) {
            add(devices, dev);
        } else if (!known && !integrated) {
            integrated = dev;
        }
    }
    if (devices->n == 0 && integrated) {
        add(devices, integrated);
    }
}

static ggml_backend_dev_t find_named(const char *name)
{
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (is_gpu(dev) && strcmp(ggml_backend_dev_name(dev), name) == 0) {
            return dev;
        }
    }
    return NULL;
}

/* "Vulkan0 (AMD Radeon ...), ...": as many as fit into buf. */
static void list_devices(char *buf, size_t cap)
{
    size_t used = 0;
    buf[0] = 0;
    for (size_t i = 0; i < ggml_backend_dev_count() && used < cap; i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (is_gpu(dev)) {
            used += (size_t)snprintf(buf + used, cap - used, "%s%s (%s)", used ? ", " : "",
                ggml_backend_dev_name(dev), ggml_backend_dev_description(dev));
        }
    }
}

static enum forebay_status fail_unknown(const char *name, struct forebay_error *err)
{
    char there[200], hint[256];
    list_devices(there, sizeof there);
    snprintf(hint, sizeof hint, "Devices: auto, none%s%s.", there[0] ? ", " : "", there);
    return fb_fail(err, FOREBAY_E_USAGE, hint, "there is no device '%s'", name);
}

static enum forebay_status add_named(
    struct fb_devices *devices, const char *name, struct forebay_error *err)
{
    ggml_backend_dev_t dev = find_named(name);
    if (!dev) {
        return fail_unknown(name, err);
    }
    for (int d = 0; d < devices->n; d++) {
        if (devices->all[d].dev == dev) {
            return fb_fail(
                err, FOREBAY_E_USAGE, "Name each device once.", "device '%s' is named twice", name);
        }
    }
    if (devices->n == FOREBAY_DEVICES) {
        return fb_fail(err, FOREBAY_E_USAGE, "", "more than %d devices are named", FOREBAY_DEVICES);
    }
    add(devices, dev);
    return FOREBAY_OK;
}

enum forebay_status fb_devices_find(
    struct fb_devices *devices, const char *names, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    *devices = (struct fb_devices){0};
    if (strcmp(names, "auto") == 0) {
        find_any(devices);
    } else if (strcmp(names, "none") != 0) {
        bool more = true;
        for (const char *at = names; more && status == FOREBAY_OK;) {
            size_t length = strcspn(at, ",");
            forebay_name name;
            snprintf(name, sizeof name, "%.*s", (int)fb_min(length, sizeof name - 1), at);
            status = add_named(devices, name, err);
            more = at[length] == ',';
            at += length + 1;
        }
    }
    return status;
}

static uint64_t usual_room(
    const struct fb_devices *devices, const struct fb_device *device, uint64_t budget_bytes)
{
    size_t free_bytes = 0, total = 0;
    uint64_t n_shared = 0;
    ggml_backend_dev_memory(device->dev, &free_bytes, &total);
    uint64_t reserve = RESERVE_BYTES + total / RESERVE_SHARE;
    uint64_t room = free_bytes - fb_min(free_bytes, reserve);
    for (int d = 0; d < devices->n; d++) {
        n_shared += devices->all[d].shared;
    }
    return device->shared ? fb_min(room, budget_bytes / 2 / n_shared) : room;
}

enum forebay_status fb_devices_set_rooms(
    struct fb_devices *devices, const struct forebay_model_options *o, struct forebay_error *err)
{
    if (o->n_device_mem > 1 && o->n_device_mem != devices->n) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give one size for all devices, or one for each.",
            "%d sizes for the memory of %d devices", o->n_device_mem, devices->n);
    }
    devices->rooms.n = devices->n;
    for (int d = 0; d < devices->n; d++) {
        uint64_t wanted = o->n_device_mem > 1   ? o->device_mem_bytes[d]
                          : o->n_device_mem > 0 ? o->device_mem_bytes[0]
                                                : 0;
        devices->rooms.bytes[d] =
            wanted ? wanted : usual_room(devices, &devices->all[d], o->mem_bytes);
    }
    return FOREBAY_OK;
}
