#include "plan/governor.h"

#include <stdbool.h>

#include "base/units.h"

#define SECOND_NS ((uint64_t)1000000000)
/* The target grows by at most this share of the whole; zeroing 64 MiB takes some 20 ms. */
#define STEP_SHARE 16
#define STEP_MOST  (64 * FB_MIB)
/* Growth that is undone within this time was a mistake; the longer wait is halved after
 * FORGIVE_NS. */
#define REGRET_NS    (10 * SECOND_NS)
#define FORGIVE_NS   (60 * SECOND_NS)
#define CALM_MOST    64 /* times the first wait */
#define PRESSURE_BAD 0.1
#define PRESSURE_OK  0.02
/* Keeps sums of sizes from overflowing, whatever a broken /proc reports. */
#define SANE_BYTES ((uint64_t)1 << 60)

void fb_governor_init(
    struct fb_governor *g, uint64_t most_bytes, uint64_t least_bytes, uint64_t calm_ns)
{
    *g = (struct fb_governor){
        .most_bytes = most_bytes,
        .least_bytes = fb_min(least_bytes, most_bytes),
        .target_bytes = most_bytes,
        .calm_ns = calm_ns,
        .first_calm_ns = calm_ns,
        .limit_bytes = UINT64_MAX,
    };
}

/* Remembers by how much the limit fell, for a second. When another container becomes the tightest,
 * that looks like a fall, too: hence at most an eighth. */
static void note_fall(struct fb_governor *g, uint64_t limit, uint64_t now)
{
    if (limit < g->limit_bytes && g->limit_bytes != UINT64_MAX) {
        g->fall_bytes = fb_max(g->fall_bytes, fb_min(g->limit_bytes - limit, limit / 8));
        g->fall_ns = now;
    } else if (now - g->fall_ns > SECOND_NS) {
        g->fall_bytes = 0;
    }
    g->limit_bytes = limit;
}

static void shrink(struct fb_governor *g, uint64_t held, uint64_t by, uint64_t now)
{
    uint64_t target = held - fb_min(by, held);
    target = fb_max(target, g->least_bytes);
    g->room_since_ns = 0;
    if (target >= g->target_bytes) {
        return; /* decided before and not done yet, or nothing left to give back */
    }
    if (g->grown_ns && now - g->grown_ns < REGRET_NS) {
        g->calm_ns = fb_min(2 * g->calm_ns, CALM_MOST * g->first_calm_ns);
    }
    g->target_bytes = target;
    g->shrunk_ns = now;
    g->grown_ns = 0;
}

static void grow(struct fb_governor *g, uint64_t held, uint64_t spare, uint64_t now)
{
    if (!g->room_since_ns) {
        g->room_since_ns = now;
    }
    if (g->calm_ns > g->first_calm_ns && now - g->shrunk_ns > FORGIVE_NS) {
        g->calm_ns /= 2;
        g->shrunk_ns = now;
    }
    /* Memory that is allowed but not in use yet will come out of the headroom. (It is never used to
     * the last byte: slots are whole.) */
    uint64_t pending = g->target_bytes - fb_min(held, g->target_bytes);
    uint64_t step = fb_min(fb_max(g->most_bytes / STEP_SHARE, 1), STEP_MOST);
    bool waited = now - g->room_since_ns >= g->calm_ns;
    bool settled = !g->grown_ns || now - g->grown_ns >= g->first_calm_ns / 16;
    if (g->target_bytes >= g->most_bytes || !waited || !settled || spare <= pending) {
        return;
    }
    g->target_bytes += fb_min(fb_min(step, spare - pending), g->most_bytes - g->target_bytes);
    g->grown_ns = now;
}

uint64_t fb_governor_decide(struct fb_governor *g, const struct fb_governor_input *in)
{
    uint64_t now = in->now_ns;
    uint64_t headroom = fb_min(in->headroom_bytes, SANE_BYTES);
    uint64_t reserve = fb_min(in->reserve_bytes, SANE_BYTES);
    uint64_t held = fb_min(in->held_bytes, g->most_bytes);
    bool bad = in->pressure > PRESSURE_BAD;
    note_fall(g, in->limit_bytes, now);
    uint64_t enough = reserve + reserve / 2 + 2 * g->fall_bytes;
    uint64_t plenty = 2 * reserve + 2 * g->fall_bytes;
    if (headroom < reserve + g->fall_bytes) {
        shrink(g, held, enough - headroom, now);
    } else if (bad && (!g->pressed_ns || now - g->pressed_ns >= 2 * SECOND_NS)) {
        g->pressed_ns = now;
        shrink(g, held, fb_max(held / 8, 1), now);
    } else if (headroom <= plenty || in->pressure > PRESSURE_OK) {
        g->room_since_ns = 0;
    } else {
        grow(g, held, headroom - plenty, now);
    }
    return g->target_bytes;
}
