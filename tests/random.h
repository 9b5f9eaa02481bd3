/* random.h - numbers that are the same on every machine. Set random_state to a seed before. */
#ifndef FOREBAY_TESTS_RANDOM_H
#define FOREBAY_TESTS_RANDOM_H

#include "base/random.h"

static uint64_t random_state;

static inline uint64_t rnd(void)
{
    return fb_random_next(&random_state);
}

/* 0 .. n-1 */
static inline int random_below(int n)
{
    return (int)(rnd() % (uint64_t)n);
}

#endif
