/*
 * cache.h - which expert sits in which slot. Bookkeeping only: no I/O, no memory, no clock.
 *
 * Every MoE layer has its own slots (a share of the budget): a global LRU hits 0 % when the cache
 * is smaller than one token's walk over the layers, a per-layer share does not (FIELD figures).
 * A slot is FREE, or holds one expert and a set of valid parts (gate, up, down: bits chosen by the
 * caller). A policy ranks the victims.
 *
 * Rules (cited by the tests):
 *   C1  An expert of a layer is in at most one slot.
 *   C2  A pinned slot is never given away.
 *   C3  acquire fails only when every slot of the layer is pinned.
 *   C4  The same calls give the same answers: no randomness, no clock.
 *   C5  A protected expert goes only when every unpinned slot of its layer is protected.
 */
#ifndef FB_CACHE_CACHE_H
#define FB_CACHE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

struct fb_cache;

/* Replacement policies are tables of pure functions over (layer, slot, expert) events; see
 * policy.h. fb_cache_policy("lru") finds one by name, NULL when unknown; names() is for help. */
struct fb_cache_policy;
const struct fb_cache_policy *fb_cache_policy(const char *name);
const char *fb_cache_policy_names(void); /* "lru, lfu, echo" */

/* `n_experts[l]` experts and `n_slots[l]` slots (1..n_experts) for each of `n_layers` layers. */
struct fb_cache *fb_cache_new(
    int n_layers, const int *n_experts, const int *n_slots, const struct fb_cache_policy *policy);
void fb_cache_free(struct fb_cache *cache);

/* Slot that holds the expert, or -1. Changes nothing. */
int fb_cache_find(const struct fb_cache *cache, int layer, int expert);

/* Says that a token needs the expert now (one use), whether or not it is present: this, and only
 * this, is what policies learn from. */
void fb_cache_touch(struct fb_cache *cache, int layer, int expert);

/* Starts a new step (token or batch) of the layer: the unit in which policies count age. */
void fb_cache_step(struct fb_cache *cache, int layer);

/* Says that the expert is expected to be needed soon, so that it stays (C5) until it is touched or
 * `steps` more steps of the layer have begun, whichever is first. Whether it is resident does not
 * matter. 0 takes an earlier word back. */
void fb_cache_protect(struct fb_cache *cache, int layer, int expert, int steps);
bool fb_cache_protected(const struct fb_cache *cache, int layer, int expert);

/* Slot for the expert: its own, else a free one, else the policy's victim (its parts are then 0).
 * *evicted is the expert that lost its slot, or -1. Returns -1 (C3) when all slots are pinned. */
int fb_cache_acquire(struct fb_cache *cache, int layer, int expert, int *evicted);

/* Pins nest. Unpinning what is not pinned is a bug. */
void fb_cache_pin(struct fb_cache *cache, int layer, int slot);
void fb_cache_unpin(struct fb_cache *cache, int layer, int slot);

/* Valid parts of the slot's expert, as bits. */
uint32_t fb_cache_parts(const struct fb_cache *cache, int layer, int slot);
void fb_cache_set_parts(struct fb_cache *cache, int layer, int slot, uint32_t parts);

/* Forgets the slot's expert (a read failed, or the memory is given back). Not while pinned. */
void fb_cache_drop(struct fb_cache *cache, int layer, int slot);

/* Expert in the slot, or -1 when free. */
int fb_cache_expert(const struct fb_cache *cache, int layer, int slot);

bool fb_cache_pinned(const struct fb_cache *cache, int layer, int slot);

int fb_cache_slots(const struct fb_cache *cache, int layer);

/* Changes the layer's share to n (1..n_experts). Slots >= n must not be pinned; they are dropped. */
void fb_cache_resize(struct fb_cache *cache, int layer, int n);

/* --- Slots that move between layers --------------------------------------------------------- */

/* Fewest slots the layer may be left with when others take from it; at first all it has. */
void fb_cache_set_floor(struct fb_cache *cache, int layer, int n);

/* Whether the layer, which is about to evict, had better take a slot of another one: what it would
 * lose is then worth far more than what is in the other's slot. Never with a policy whose worths
 * cannot be compared. Nothing moves yet: `*from` is that layer and `*slot` its slot, free or
 * unpinned; the caller drops, moves and resizes. */
bool fb_cache_trade(struct fb_cache *cache, int layer, int *from, int *slot);

/* Moves what is in slot `from` (not pinned) to slot `to` of the same layer, which must be free. */
void fb_cache_move(struct fb_cache *cache, int layer, int from, int to);

/* Aborts (FB_BUG) when an internal invariant does not hold. For tests. */
void fb_cache_check(const struct fb_cache *cache);

#endif
