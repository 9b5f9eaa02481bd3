/*
 * gpu_memory.h - how many slots a GPU's memory has room for now: other programs need it, too.
 *
 *      free memory of the device --> plan/governor.h --> bytes --> fb_device_slots_heed --> slots
 *
 * At a start there is a reserve of free memory (engine/devices.c). Slots are given up when a
 * quarter of such a reserve is left, and regained when there has been more than half of it for a
 * second.
 *
 * For tests, FOREBAY_TEST_DEVICE_SLOTS is a list of numbers ("4,1,9"): the slots of each group in
 * the first graph, in the second, and so on, from the beginning again after the last.
 */
#ifndef FB_GPU_GPU_MEMORY_H
#define FB_GPU_GPU_MEMORY_H

#include "ggml-backend.h"
#include "plan/governor.h"

struct fb_gpu_memory {
    ggml_backend_dev_t device;
    struct fb_governor governor;
    int most, now;       /* slots of each group */
    uint64_t each_bytes; /* of a slot of all groups */
    uint64_t looked_ns;
    const char *forced; /* what is left of the test's list; NULL: none */
};

/* `slots` of each group have been allocated on the device. */
void fb_gpu_memory_init(
    struct fb_gpu_memory *m, ggml_backend_dev_t device, int slots, uint64_t each_bytes);

/* How many slots each group should have now. Asks the device ten times per second at most. */
int fb_gpu_memory_slots(struct fb_gpu_memory *m);

#endif
