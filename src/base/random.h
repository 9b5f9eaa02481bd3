/*
 * random.h - pseudo-random numbers: SplitMix64 (Steele, Lea and Flood 2014), the same on every
 * machine. Not for secrets. Pure.
 *
 * The generator hashes a counter, so numbers can be drawn in sequence (fb_random_next) or computed
 * directly from an index (fb_random_mix of a seed and two indices).
 */
#ifndef FB_BASE_RANDOM_H
#define FB_BASE_RANDOM_H

#include <stdint.h>

#define FB_RANDOM_STEP 0x9e3779b97f4a7c15u /* 2^64 / golden ratio, made odd */

/* A well-mixed function of x. */
static inline uint64_t fb_random_hash(uint64_t x)
{
    x += FB_RANDOM_STEP;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* The next number of the sequence that began with *state = seed (any number), and advances it. */
static inline uint64_t fb_random_next(uint64_t *state)
{
    uint64_t x = fb_random_hash(*state);
    *state += FB_RANDOM_STEP;
    return x;
}

/* A well-mixed function of three numbers; their order counts. */
static inline uint64_t fb_random_mix(uint64_t a, uint64_t b, uint64_t c)
{
    return fb_random_hash(fb_random_hash(fb_random_hash(a) ^ b) ^ c);
}

#endif
