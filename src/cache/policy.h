/*
 * policy.h - what a replacement policy is, for those who write one.
 *
 * A policy says what each expert of a layer is worth; the cache gives away the unpinned slot whose
 * expert is worth least. The cache itself breaks ties: the expert touched longest ago goes first
 * (one never touched before all others), then the lower slot. So a policy without an opinion
 * is LRU, and a policy only has to say where it differs from that.
 *
 *      step, touch --> [ state ] --> worth of each expert --> [ tie: recency, slot ] --> victim
 *
 * One state for all layers: what one layer uses may say something about another. It is about
 * experts, not slots: what is known of an expert survives its eviction, its drop and every resize.
 *
 * To add one: write policy_NAME.c with a table fb_cache_NAME, and a line in FB_CACHE_POLICY_LIST.
 *
 * Rules, besides those of cache.h:
 *   P1  What a function answers follows from the calls of step and touch so far (hence C4).
 *   P2  Integers only: a sum of floats may differ between compilers, and then so do the reads.
 */
#ifndef FB_CACHE_POLICY_H
#define FB_CACHE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fb_cache_policy {
    const char *name;

    /* Worth means the same in all layers, so that a slot may move to where it is worth more. */
    bool comparable;

    /* State for layers of up to n_experts each. NULL, and `state` is NULL below: there is none. */
    void *(*make)(int n_layers, int n_experts);
    void (*free)(void *state);

    /* A new step of the layer begins: the clock of policies that let uses age. May be NULL. */
    void (*step)(void *state, int layer);

    /* A token needs the expert, resident or not. May be NULL. */
    void (*touch)(void *state, int layer, int expert);

    /* How much is lost when each expert of the layer goes; more stays longer. Valid until the next
     * step or touch. Asked at each miss of a full layer, so the answer should be kept. NULL: all
     * the same. */
    const uint64_t *(*worth)(void *state, int layer);
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
