/* hash.h - XXH64, a fast 64-bit checksum. It finds damage, not malice. Pure. */
#ifndef FB_BASE_HASH_H
#define FB_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* XXH64 as its specification defines it (doc/xxhash_spec.md of github.com/Cyan4973/xxHash), the
 * same on every machine. To go on over several pieces, give the hash of the one before as the
 * seed. */
uint64_t fb_hash64(const void *data, size_t n, uint64_t seed);

#endif
