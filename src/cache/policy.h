/*
 * policy.h - the interface of replacement policies, for those who write one.
 *
 * A policy gives a worth to each key of a pool; the cache evicts the key that is worth least among
 * those in unpinned slots. The cache itself breaks ties: the key touched longest ago is evicted
 * first (one never touched before all others), then the one in the lower slot. A policy without an
 * opinion is therefore LRU, and a policy only has to say where it differs from that.
 *
 *      step, touch --> [ state ] --> worth of each key --> [ tie: recency, slot ] --> victim
 *
 * There is one state for all pools: uses in one pool may say something about another. It is about
 * keys, not slots: what is known of a key survives its eviction, its drop and every resize.
 *
 * To add one: write policy_NAME.c with a table fb_cache_NAME, and a line in FB_CACHE_POLICY_LIST.
 *
 * Rules, besides those of cache.h:
 *   P1  The answers follow from the calls of step and touch so far (hence C4).
 *   P2  Integers only: a sum of floats may differ between compilers, and then the reads differ too.
 */
#ifndef FB_CACHE_POLICY_H
#define FB_CACHE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fb_cache_policy {
    const char *name;

    /* The worth of a key is in the same unit in all pools, so that a slot may move to the pool
     * where it is worth more (fb_cache_trade). */
    bool comparable;

    /* State for pools of up to n_keys keys each. May be NULL: then there is no state, and `state`
     * is NULL below. */
    void *(*make)(int n_pools, int n_keys);
    void (*free)(void *state);

    /* A new step of the pool begins: the clock of policies in which uses age. May be NULL. */
    void (*step)(void *state, int pool);

    /* A token needs the key, present or not. May be NULL. */
    void (*touch)(void *state, int pool, int key);

    /* [n_keys] the loss if the key is evicted; keys worth more stay longer. Valid until the next
     * step or touch. Called at each miss of a full pool, so the result should be cached. NULL: all
     * keys are worth the same. */
    const uint64_t *(*worth)(void *state, int pool);
};

/* X(name, separator): the separator stands before the name in fb_cache_policy_names(). */
#define FB_CACHE_POLICY_LIST(X)                                                                    \
    X(lru, "")                                                                                     \
    X(lfu, ", ")                                                                                   \
    X(echo, ", ")

#define FB_CACHE_POLICY_DECLARE(name, separator)                                                   \
    extern const struct fb_cache_policy fb_cache_##name;
FB_CACHE_POLICY_LIST(FB_CACHE_POLICY_DECLARE)
#undef FB_CACHE_POLICY_DECLARE

#endif
