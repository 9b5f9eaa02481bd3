/*
 * policy_lru.c - evicts the key used longest ago.
 *
 * No opinion of its own: the tie-break of policy.h is LRU.
 */
#include "cache/policy.h"

const struct fb_cache_policy fb_cache_lru = {.name = "lru"};
