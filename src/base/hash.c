/* hash.c - XXH64, from its specification (see hash.h). */
#include "base/hash.h"

#include <string.h>

#define P1 0x9E3779B185EBCA87u
#define P2 0xC2B2AE3D27D4EB4Fu
#define P3 0x165667B19E3779F9u
#define P4 0x85EBCA77C2B2AE63u
#define P5 0x27D4EB2F165667C5u

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static uint64_t load64(const unsigned char *at)
{
    uint64_t x;
    memcpy(&x, at, sizeof x);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

static uint32_t load32(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t stir(uint64_t lane, uint64_t input)
{
    return rotate(lane + input * P2, 31) * P1;
}

static uint64_t merge(uint64_t hash, uint64_t lane)
{
    return (hash ^ stir(0, lane)) * P1 + P4;
}

/* Four independent lanes over whole blocks of 32 bytes, for instruction-level parallelism. */
static uint64_t blocks(const unsigned char **at, size_t *n, uint64_t seed)
{
    uint64_t a = seed + P1 + P2, b = seed + P2, c = seed, d = seed - P1;
    for (; *n >= 32; *n -= 32, *at += 32) {
        a = stir(a, load64(*at));
        b = stir(b, load64(*at + 8));
        c = stir(c, load64(*at + 16));
        d = stir(d, load64(*at + 24));
    }
    uint64_t hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    return merge(merge(merge(merge(hash, a), b), c), d);
}

uint64_t fb_hash64(const void *data, size_t n, uint64_t seed)
{
    const unsigned char *at = data;
    uint64_t total = n;
    uint64_t hash = n >= 32 ? blocks(&at, &n, seed) : seed + P5;
    hash += total;
    for (; n >= 8; n -= 8, at += 8) {
        hash = rotate(hash ^ stir(0, load64(at)), 27) * P1 + P4;
    }
    if (n >= 4) {
        hash = rotate(hash ^ load32(at) * P1, 23) * P2 + P3;
        n -= 4;
        at += 4;
    }
    for (; n > 0; n--, at++) {
        hash = rotate(hash ^ *at * P5, 11) * P1;
    }
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}
