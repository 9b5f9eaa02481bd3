/*
 * belady.h - the fewest misses that any replacement policy could have (Belady 1966): it evicts the
 * id that is needed last, or never again. It knows the future, so it is a bound and not a policy.
 */
#ifndef FB_SIM_BELADY_H
#define FB_SIM_BELADY_H

#include <stdbool.h>
#include <stddef.h>

/* Each step needs several ids at once: step s needs ids[first[s]] .. ids[first[s + 1] - 1], which
 * are distinct and in 0 .. n_ids-1. */
struct fb_belady_steps {
    int n_steps;
    const size_t *first; /* [n_steps + 1] */
    const int *ids;
    int n_ids;
};

/* Fills hit[i] for each element of ids: present before its step, with n_slots slots that are empty
 * at first. Misses are the fewest possible while no step needs more ids than there are slots; a
 * step that needs more keeps the ids that are needed again first. O(ids + misses x slots). */
void fb_belady(const struct fb_belady_steps *steps, int n_slots, bool *hit);

#endif
