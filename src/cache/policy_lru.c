/*
 * policy_lru.c - the expert used longest ago goes first.
 *
 * No opinion of its own: the tie-break of policy.h is LRU.
 */
#include "cache/policy.h"

const struct st_cache_policy st_cache_lru = {.name = "lru"};
