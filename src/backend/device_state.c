#include "backend/device_state.h"

#include "base/units.h"

struct fb_device_state fb_device = {
    .calm_ns = 1000000000,
    .use_interval_ns = 100000000,
    .block_bytes = 32 * FB_MIB,
};
