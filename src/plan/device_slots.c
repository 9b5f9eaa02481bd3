#include "plan/device_slots.h"

#include "base/units.h"

#define TRANSIT_SHARE 8  /* of the bytes */
#define TRANSIT_UNITS 64 /* more are of no use */
/* Beside the stream's own slots: memory for more would be better used as slots. */
#define SHARED_TRANSIT_UNITS 16
#define GROWTH_SHARE         8

static bool in_layers(const struct fb_group *group, int first_layer, int end_layer)
{
    return group->layer >= first_layer && group->layer < end_layer;
}

/* Bytes of one slot of each group, and of the largest unit. */
static uint64_t slot_of_each(
    const struct fb_weights *ws, int first_layer, int end_layer, uint64_t *largest)
{
    uint64_t bytes = 0;
    *largest = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        for (int p = 0; in_layers(group, first_layer, end_layer) && p < group->n_parts; p++) {
            uint64_t unit = ws->weights[group->weight[p]].unit_bytes;
            bytes += unit;
            *largest = fb_max(*largest, unit);
        }
    }
    return bytes;
}

struct fb_device_slots fb_device_slots_make(
    const struct fb_weights *ws, int first_layer, int end_layer, uint64_t bytes)
{
    uint64_t largest, each = slot_of_each(ws, first_layer, end_layer, &largest);
    uint64_t transit = fb_min(bytes / TRANSIT_SHARE, bytes - fb_min(bytes, each));
    transit = fb_max(transit, 2 * largest);
    transit = fb_min(transit, (TRANSIT_UNITS + 1) * largest);
    uint64_t rest = bytes - fb_min(bytes, transit);
    return (struct fb_device_slots){
        .n = fb_max(each ? rest / each : 0, 1), .transit_bytes = transit};
}

uint64_t fb_device_slots_least(const struct fb_weights *ws, int first_layer, int end_layer)
{
    uint64_t largest, each = slot_of_each(ws, first_layer, end_layer, &largest);
    return each + 2 * largest;
}

uint64_t fb_device_slots_least_transit(const struct fb_weights *ws, int first_layer, int end_layer)
{
    uint64_t largest;
    slot_of_each(ws, first_layer, end_layer, &largest);
    return 2 * largest;
}

uint64_t fb_device_slots_transit(uint64_t bytes, uint64_t largest_bytes)
{
    uint64_t transit = fb_min(bytes, (SHARED_TRANSIT_UNITS + 1) * largest_bytes);
    return transit < 2 * largest_bytes ? 0 : transit;
}

int fb_device_slots_of(const struct fb_device_slots *slots, const struct fb_group *group)
{
    return (int)fb_min(slots->n, (uint64_t)group->n_expert);
}

uint64_t fb_device_slots_each(const struct fb_weights *ws, int first_layer, int end_layer)
{
    uint64_t largest;
    return slot_of_each(ws, first_layer, end_layer, &largest);
}

int fb_device_slots_heed(int now, int most, uint64_t each_bytes, uint64_t target_bytes)
{
    int n = (int)fb_min(fb_max(target_bytes / fb_max(each_bytes, 1), 1), (uint64_t)most);
    int step = most / GROWTH_SHARE > 1 ? most / GROWTH_SHARE : 1;
    return n < now || n == most || n - now >= step ? n : now;
}
