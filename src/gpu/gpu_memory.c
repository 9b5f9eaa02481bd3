#include "gpu/gpu_memory.h"

#include <stdlib.h>

#include "base/units.h"
#include "plan/device_slots.h"

#define CALM_NS     ((uint64_t)1000000000)
#define INTERVAL_NS (CALM_NS / 10)
/* A quarter of the reserve of engine/devices.c. */
#define RESERVE_BYTES (64 * FB_MIB)
#define RESERVE_SHARE 64
#define TEST_LIST     "FOREBAY_TEST_DEVICE_SLOTS"

void fb_gpu_memory_init(
    struct fb_gpu_memory *m, ggml_backend_dev_t device, int slots, uint64_t each_bytes)
{
    const char *list = getenv(TEST_LIST);
    *m = (struct fb_gpu_memory){.device = device,
        .most = slots,
        .now = slots,
        .each_bytes = each_bytes,
        .forced = list && *list ? list : NULL};
    fb_governor_init(&m->governor, (uint64_t)slots * each_bytes, each_bytes, CALM_NS);
}

/* The next number of the test's list. */
static int forced_slots(struct fb_gpu_memory *m)
{
    char *end;
    long n = strtol(m->forced, &end, 10);
    m->forced = *end == ',' ? end + 1 : getenv(TEST_LIST);
    return n < 1 ? 1 : n > INT16_MAX ? INT16_MAX : (int)n;
}

static uint64_t target(struct fb_gpu_memory *m, uint64_t now_ns, size_t free_bytes, size_t total)
{
    const struct fb_governor_input in = {
        .now_ns = now_ns,
        .headroom_bytes = free_bytes,
        .limit_bytes = UINT64_MAX,
        .reserve_bytes = RESERVE_BYTES + total / RESERVE_SHARE,
        .held_bytes = (uint64_t)m->now * m->each_bytes,
    };
    return fb_governor_decide(&m->governor, &in);
}

int fb_gpu_memory_slots(struct fb_gpu_memory *m)
{
    uint64_t now_ns = fb_now_ns();
    size_t free_bytes = 0, total = 0;
    if (m->forced) {
        m->now = forced_slots(m);
    } else if (now_ns - m->looked_ns >= INTERVAL_NS) {
        m->looked_ns = now_ns;
        ggml_backend_dev_memory(m->device, &free_bytes, &total);
        if (free_bytes < total) { /* equal: of a device that cannot tell */
            uint64_t bytes = target(m, now_ns, free_bytes, total);
            m->now = fb_device_slots_heed(m->now, m->most, m->each_bytes, bytes);
        }
    }
    return m->now;
}
