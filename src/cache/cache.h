/*
 * cache.h - which key sits in which slot of which pool. Bookkeeping only: no I/O, no memory, no
 * clock.
 *
 * A *pool* is a number of slots; a *key* is what may occupy one of them. The stream has one pool
 * for each layer, whose keys are the layer's experts, or one pool that all layers share, whose keys
 * are the experts of all layers. Separate pools are better: a global LRU hits 0 % when it has fewer
 * slots than one token needs over all layers; one pool for each layer still hits.
 *
 * A slot is free, or holds one key and a set of valid parts (bits whose meaning is the caller's:
 * gate, up, down). A policy ranks the victims.
 *
 * Rules (cited by the tests):
 *   C1  A key of a pool is in at most one slot.
 *   C2  A pinned slot is never given away.
 *   C3  acquire fails only when every slot of the pool is pinned.
 *   C4  The same calls give the same answers: no randomness, no clock.
 *   C5  A protected key is evicted only when every unpinned slot of its pool holds a protected one.
 *   C6  A key that is only offered evicts only a key that would be evicted before it.
 *
 * Pools, keys and slots are counted from 0. A number out of range aborts, in release builds too.
 * Threads: a cache belongs to one thread at a time.
 */
#ifndef FB_CACHE_CACHE_H
#define FB_CACHE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

struct fb_cache;

/* Replacement policies are tables of functions; policy.h says how to write one. fb_cache_policy
 * finds one by name, NULL when there is none of that name. */
struct fb_cache_policy;
const struct fb_cache_policy *fb_cache_policy(const char *name);
const char *fb_cache_policy_names(void); /* "lru, lfu, echo", for messages */

/* Pool p has n_keys[p] keys and n_slots[p] slots (1..n_keys[p]), all free. The arrays are copied.
 * Never NULL. */
struct fb_cache *fb_cache_new(
    int n_pools, const int *n_keys, const int *n_slots, const struct fb_cache_policy *policy);
void fb_cache_free(struct fb_cache *cache);

/* Slot that holds the key, or -1. Changes nothing. */
int fb_cache_find(const struct fb_cache *cache, int pool, int key);

/* A token needs the key now (one use), whether it is present or not. Policies learn from this call
 * and from fb_cache_step only. */
void fb_cache_touch(struct fb_cache *cache, int pool, int key);

/* A new step (token or batch) of the pool begins: the unit in which policies count age. */
void fb_cache_step(struct fb_cache *cache, int pool);

/* The key will probably be needed soon: protects it (C5) until it is touched or `steps` more steps
 * of the pool have begun, whichever is first. It need not be present. 0 ends the protection. */
void fb_cache_protect(struct fb_cache *cache, int pool, int key, int steps);
bool fb_cache_protected(const struct fb_cache *cache, int pool, int key);

/* While `above`, the key is also in a faster memory, which is asked first: here it is worth next to
 * nothing. It need not be present. */
void fb_cache_set_above(struct fb_cache *cache, int pool, int key, bool above);
bool fb_cache_above(const struct fb_cache *cache, int pool, int key);

/* Slot for the key: its own, else a free one, else the policy's victim (its parts are then 0).
 * *evicted is the key that lost its slot, or -1. Returns -1 (C3) when all slots are pinned. */
int fb_cache_acquire(struct fb_cache *cache, int pool, int key, int *evicted);

/* The same for a key that nobody needs now (C6). */
int fb_cache_offer(struct fb_cache *cache, int pool, int key, int *evicted);

/* Pins nest. The slot must not be free; unpinning a slot that is not pinned aborts. */
void fb_cache_pin(struct fb_cache *cache, int pool, int slot);
void fb_cache_unpin(struct fb_cache *cache, int pool, int slot);

/* Valid parts of the slot's key, as bits. To set them, the slot must not be free. */
uint32_t fb_cache_parts(const struct fb_cache *cache, int pool, int slot);
void fb_cache_set_parts(struct fb_cache *cache, int pool, int slot, uint32_t parts);

/* Makes the slot, which must not be pinned, free. */
void fb_cache_drop(struct fb_cache *cache, int pool, int slot);

/* Key in the slot, or -1 when the slot is free. */
int fb_cache_key(const struct fb_cache *cache, int pool, int slot);

bool fb_cache_pinned(const struct fb_cache *cache, int pool, int slot);

/* Number of slots of the pool. */
int fb_cache_slots(const struct fb_cache *cache, int pool);

/* Gives the pool n slots (1..n_keys). Slots >= n must not be pinned; their keys are dropped. */
void fb_cache_resize(struct fb_cache *cache, int pool, int n);

/* --- Slots that move between pools ------------------------------------------------------------ */

/* The pool keeps at least n slots when others borrow from it. Initially it lends none. */
void fb_cache_set_floor(struct fb_cache *cache, int pool, int n);

/* Call before the pool evicts. True when it should use a slot of another pool instead, because its
 * own victim is worth far more than what that slot holds; *from is the other pool, *slot its slot,
 * which is free or unpinned. Always false with a policy that is not `comparable`. Moves
 * nothing: the caller drops, moves and resizes. */
bool fb_cache_trade(struct fb_cache *cache, int pool, int *from, int *slot);

/* Moves the content of slot `from` (not pinned) to slot `to` of the same pool, which must be free.
 * */
void fb_cache_move(struct fb_cache *cache, int pool, int from, int to);

/* Aborts (FB_BUG) when an internal invariant does not hold. For tests. */
void fb_cache_check(const struct fb_cache *cache);

#endif
