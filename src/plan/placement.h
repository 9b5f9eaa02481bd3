/*
 * placement.h - whether devices compute at all, and with which layers' experts as a whole and which
 * from slots: a pure function of what was measured.
 *
 *      choices   whole layers (plan/offload.h)     dev dev dev | experts of the others: CPU
 *                slots, with 0 to all of these     dev dev dev | experts of the others: slots
 *                nothing, if that is allowed       CPU
 *
 * Each choice is planned and estimated as it would be for a run; the one with the shortest
 * conversation is taken. Whole layers are the usual choice: another one must be estimated to be
 * clearly faster, because estimates err.
 */
#ifndef FB_PLAN_PLACEMENT_H
#define FB_PLAN_PLACEMENT_H

#include "plan/estimate.h"

/* The conversation that choices are compared by: caches that win while answering may lose in
 * prompts. */
#define FB_PLACEMENT_PROMPT 512
#define FB_PLACEMENT_ANSWER 256

struct fb_placement_inputs {
    /* All weights of the model as without devices; plan, curves and devices are not used. Curves
     * are always the prior, so that a model's placement does not change with its history. */
    const struct fb_speed_inputs *speed;
    const struct fb_offload_plan *whole; /* the largest part of the model that devices hold */
    const char *const *names;            /* of the devices, as in the profile */
    uint64_t ram_bytes;                  /* for weights, without devices */
    uint64_t ram_beside_bytes;           /* the same with devices, which hold KV cache, too */
    /* For slots, if no layer has its experts on the device of the slots, beyond least_whole; 0:
     * there cannot be slots. */
    uint64_t slots_bytes;
    /* Slots are those in RAM, and slots_bytes are for a transit alone; what other layers then leave
     * of the device's memory is RAM's. */
    bool slots_shared;
    int slots_device;
    int prompt_rows; /* fb_devices_prompt_rows of the first device */
    int least_whole; /* layers that keep their experts in any case: those on other devices */
    bool may_do_without;
};

struct fb_placement {
    bool use;   /* devices are used */
    bool slots; /* the experts of all but the last n_whole layers are in slots */
    int n_whole;
    bool known;                    /* false: the profile lacks rates; then whole layers are used */
    double seconds, whole_seconds; /* of the conversation: as chosen, and with whole layers */
};

void fb_placement_choose(const struct fb_placement_inputs *inputs, struct fb_placement *out);

/* Seconds of the conversation by an estimate. */
double fb_placement_seconds(const struct fb_speed *speed);

#endif
