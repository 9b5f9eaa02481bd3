/* hash.h - XXH64, a fast 64-bit checksum. It detects damage, not tampering. Pure. */
#ifndef FB_BASE_HASH_H
#define FB_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* XXH64 as its specification defines it (doc/xxhash_spec.md of github.com/Cyan4973/xxHash), the
 * same on every machine. To chain several
 * pieces, pass the hash of the piece before as the seed. */
uint64_t fb_hash64(const void *data, size_t n, uint64_t seed);

#endif
