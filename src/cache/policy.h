/*
 * policy.h - what a replacement policy is, for those who write one.
 *
 * A policy says what each expert of a layer is worth; the cache gives away the unpinned slot whose
 * expert is worth least. The cache itself breaks ties: the expert touched longest ago goes first
 * (one never touched before all others), then the lower slot. So a policy without an opinion
 * is LRU, and a policy only has to say where it differs from that.
 *
 *      touch, step --> [ state of the layer ] --> worth(expert) --> [ tie: recency, slot ] --> victim
 *
 * One state per layer, of the size the policy asks for, zeroed at the start. It is about experts,
 * not slots: what is known of an expert survives its eviction, its drop and every resize.
 *
 * To add one: write policy_NAME.c with a table st_cache_NAME, and a line in ST_CACHE_POLICY_LIST.
 *
 * Rules, besides those of cache.h:
 *   P1  A function depends on its arguments only, and worth changes nothing (hence C4).
 *   P2  Integers only: a sum of floats may differ between compilers, and then so do the reads.
 */
#ifndef ST_CACHE_POLICY_H
#define ST_CACHE_POLICY_H

#include <stddef.h>
#include <stdint.h>

struct st_cache_policy {
    const char *name;

    /* Bytes of state for a layer of n_experts; NULL: none, and `state` is NULL below. */
    size_t (*state_bytes)(int n_experts);

    /* A new step of the layer begins: the clock of policies that let uses age. May be NULL. */
    void (*step)(void *state);

    /* A token needs the expert, resident or not. O(1). May be NULL. */
    void (*touch)(void *state, int expert);

    /* How much is lost when the expert goes; more stays longer. Asked for every unpinned slot of a
     * full layer at each miss, so O(1) and a few nanoseconds. NULL: all the same. */
    uint64_t (*worth)(const void *state, int expert);
};

/* X(name, separator): the separator stands before the name in st_cache_policy_names(). */
#define ST_CACHE_POLICY_LIST(X)                                                                    \
    X(lru, "")                                                                                     \
    X(lfu, ", ")

#define ST_CACHE_POLICY_DECLARE(name, separator)                                                   \
    extern const struct st_cache_policy st_cache_##name;
ST_CACHE_POLICY_LIST(ST_CACHE_POLICY_DECLARE)
#undef ST_CACHE_POLICY_DECLARE

#endif
