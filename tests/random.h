/* random.h - numbers that are the same on every machine. Set random_state before, not to 0. */
#ifndef FOREBAY_TESTS_RANDOM_H
#define FOREBAY_TESTS_RANDOM_H

#include <stdint.h>

static uint64_t random_state;

/* xorshift64* (Vigna 2016): 0 .. n-1 */
static inline int random_below(int n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (int)((random_state * 0x2545F4914F6CDD1Du >> 33) % (uint64_t)n);
}

#endif
