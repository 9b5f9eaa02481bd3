/*
 * governor.h - how much memory the weights may hold right now: a pure function of observations.
 *
 * The plan is made once; while the model runs, other programs need more and less memory:
 *
 *                             headroom
 *      0 ......... reserve + fall ......... 2 x reserve + 2 x fall .........
 *        shrink at once, to     leave alone        grow in steps, after it was
 *        1.5 x reserve + 2 x fall                  so for a while
 *
 * `fall` is by how much the limit fell last, remembered for a second: a limit that is lowered in
 * steps will fall again. Growth that had to be undone makes the next one wait longer, so that two
 * programs that react to each other do not oscillate for ever. Time lost to memory pressure shrinks
 * the target, too, by an eighth at a time.
 *
 * Rules (cited by the tests):
 *   G1  least_bytes <= target <= most_bytes, whatever the input.
 *   G2  The target rises only by memory that is spare even once all that is allowed is in use.
 *   G3  The same inputs give the same answers: no clock but the one that is passed.
 */
#ifndef FB_PLAN_GOVERNOR_H
#define FB_PLAN_GOVERNOR_H

#include <stdint.h>

/* Observations at one moment. */
struct fb_governor_input {
    uint64_t now_ns;
    uint64_t headroom_bytes; /* memory that the process may still allocate */
    uint64_t limit_bytes;    /* of the container; UINT64_MAX: none */
    uint64_t reserve_bytes;  /* part of the headroom that should stay free */
    uint64_t held_bytes;     /* by those weights that can be given back, now */
    double pressure;         /* share of time lost to memory pressure */
};

struct fb_governor {
    uint64_t most_bytes, least_bytes;
    uint64_t target_bytes;
    uint64_t calm_ns; /* how long there must be room before growing */
    /* Start of the present time with room; times of the last growth, shrink, fall and answer to
     * pressure. 0: none. */
    uint64_t room_since_ns, grown_ns, shrunk_ns, fall_ns, pressed_ns;
    uint64_t fall_bytes;
    uint64_t limit_bytes; /* at the last decision */
    uint64_t first_calm_ns;
};

/* Starts with target most_bytes. `calm_ns`: how long there must be room before it grows, about a
 * second. */
void fb_governor_init(
    struct fb_governor *g, uint64_t most_bytes, uint64_t least_bytes, uint64_t calm_ns);

/* Returns what the weights may hold from now on. Call it many times per second. */
uint64_t fb_governor_decide(struct fb_governor *g, const struct fb_governor_input *in);

#endif
