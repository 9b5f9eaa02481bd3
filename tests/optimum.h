/* optimum.h - the most hits that any policy can have, by exhaustive search. */
#ifndef FOREBAY_TESTS_OPTIMUM_H
#define FOREBAY_TESTS_OPTIMUM_H

#include <stdbool.h>
#include <string.h>

/* Few enough for that: two of six ids are needed in each of fourteen steps. */
enum { TINY_IDS = 6, TINY_STEPS = 14, TINY_NEED = 2, TINY_SETS = 1 << TINY_IDS };

/* Most hits from the last step back: over every set of ids that may be resident before a step,
 * every set that may be resident after it. ids[TINY_NEED * s ...] are needed in step s. */
static inline int most_hits(const int *ids, int slots)
{
    static int best[TINY_STEPS + 1][TINY_SETS];
    memset(best, 0, sizeof best);
    for (int s = TINY_STEPS - 1; s >= 0; s--) {
        unsigned need = 1u << ids[TINY_NEED * s] | 1u << ids[TINY_NEED * s + 1];
        for (unsigned before = 0; before < TINY_SETS; before++) {
            int rest = 0;
            for (unsigned after = 0; after < TINY_SETS; after++) {
                bool possible = (after & need) == need && (after & ~(before | need)) == 0 &&
                                __builtin_popcount(after) <= slots;
                if (possible && best[s + 1][after] > rest) {
                    rest = best[s + 1][after];
                }
            }
            best[s][before] = rest + __builtin_popcount(before & need);
        }
    }
    return best[0][0];
}

#endif
