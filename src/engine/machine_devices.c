/* machine_devices.c - completes the profile by the rates of a device. */
#include <stdio.h>

#include "backend/device_bench.h"
#include "base/error.h"
#include "engine/machine.h"
#include "ggml.h"

void fb_machine_device_name(ggml_backend_dev_t dev, char name[FB_PROFILE_DEVICE])
{
    snprintf(name, FB_PROFILE_DEVICE, "%s: %s", ggml_backend_dev_name(dev),
        ggml_backend_dev_description(dev));
}

static const char *type_of(const struct fb_machine_kind *kind)
{
    return ggml_type_name((enum ggml_type)kind->type);
}

static bool missing(
    const struct fb_machine_request *rq, const struct fb_profile *p, const char *name)
{
    bool any = !fb_profile_device(p, name);
    for (int i = 0; i < rq->n_kinds; i++) {
        const struct fb_machine_kind *kind = &rq->kinds[i];
        any = any || !fb_profile_device_rate(
                         p, name, type_of(kind), kind->columns, kind->rows, kind->used);
    }
    return any;
}

static void measure_kind(const struct fb_machine_kind *kind, struct fb_device_bench *bench,
    const char *name, struct fb_profile *p)
{
    struct fb_profile_rate rate = {
        .columns = kind->columns, .rows = kind->rows, .used = kind->used, .threads = 1};
    double batch;
    if (fb_profile_device_rate(p, name, type_of(kind), kind->columns, kind->rows, kind->used) ||
        !fb_device_bench_kind(
            bench, kind->type, kind->columns, kind->rows, kind->used, &rate.decode, &batch)) {
        return;
    }
    rate.batch = kind->columns ? 0 : batch;
    rate.experts = kind->columns ? batch : 0;
    snprintf(rate.device, sizeof rate.device, "%s", name);
    snprintf(rate.type, sizeof rate.type, "%s", type_of(kind));
    fb_profile_put_rate(p, &rate);
}

enum forebay_status fb_machine_measure_device(const struct fb_machine_request *rq,
    ggml_backend_dev_t dev, struct fb_profile *p, struct forebay_error *err)
{
    struct fb_profile_device device = {0};
    fb_machine_device_name(dev, device.name);
    struct fb_device_bench *bench = fb_machine_remembers() && missing(rq, p, device.name)
                                        ? fb_device_bench_new(dev, rq->room_bytes, rq->device_batch)
                                        : NULL;
    bool proceed = true;
    if (!bench) {
        return FOREBAY_OK;
    }
    for (int i = 0; i < rq->n_kinds && proceed; i++) {
        proceed = !rq->progress || rq->progress("measuring the device", (uint64_t)i,
                                       (uint64_t)rq->n_kinds, rq->progress_user);
        measure_kind(&rq->kinds[i], bench, device.name, p);
    }
    device.upload_bytes_per_s = fb_device_bench_upload(bench);
    device.op_s = fb_device_bench_op(bench);
    device.turn_s = fb_device_bench_turn(bench);
    fb_device_bench_free(bench);
    if (device.upload_bytes_per_s > 0) {
        fb_profile_put_device(p, &device);
    }
    fb_machine_remember(p);
    return proceed ? FOREBAY_OK : fb_fail(err, FOREBAY_E_CANCELLED, "", "measuring was cancelled");
}
