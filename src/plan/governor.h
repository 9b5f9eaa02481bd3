/*
 * governor.h - how much memory the weights may hold right now: a pure function of what is seen.
 *
 * The plan says how much they hold when nothing happens. While the model runs, others come and go:
 *
 *                             headroom
 *      0 ......... reserve + fall ......... 2 x reserve + 2 x fall .........
 *        shrink at once, to     leave alone        grow in steps, when it has
 *        1.5 x reserve + 2 x fall                  been so for a while
 *
 * `fall` is by how much the limit fell last, for a second: who lowers a limit in steps goes on.
 * Growth that had to be taken back makes the next one wait longer, so that two programs which watch
 * each other do not swing for ever. Lost time (pressure) shrinks too, by an eighth at a time.
 *
 * Rules (cited by the tests):
 *   G1  least_bytes <= target <= most_bytes, whatever the input.
 *   G2  The target rises only by what is spare after all that it allows already has been taken.
 *   G3  The same inputs give the same answers: no clock but the one that is passed.
 */
#ifndef FB_PLAN_GOVERNOR_H
#define FB_PLAN_GOVERNOR_H

#include <stdint.h>

/* What is seen at one moment. */
struct fb_governor_input {
    uint64_t now_ns;
    uint64_t headroom_bytes; /* what the process may still take */
    uint64_t limit_bytes;    /* of the container; UINT64_MAX: none */
    uint64_t reserve_bytes;  /* what should stay free of the headroom */
    uint64_t held_bytes;     /* by the weights now, of what can be given back */
    double pressure;         /* share of time lost for want of memory */
};

struct fb_governor {
    uint64_t most_bytes, least_bytes;
    uint64_t target_bytes;
    uint64_t calm_ns; /* how long there must be room before growing */
    /* Since when there is room; of the last growth, shrink, fall, answer to pressure. 0: never. */
    uint64_t room_since_ns, grown_ns, shrunk_ns, fall_ns, pressed_ns;
    uint64_t fall_bytes;
    uint64_t limit_bytes; /* at the last look */
    uint64_t first_calm_ns;
};

/* Begins at most_bytes. `calm_ns` is how long there must be room before it grows: a second or so. */
void fb_governor_init(
    struct fb_governor *g, uint64_t most_bytes, uint64_t least_bytes, uint64_t calm_ns);

/* What the weights may hold from now on. */
uint64_t fb_governor_decide(struct fb_governor *g, const struct fb_governor_input *in);

#endif
