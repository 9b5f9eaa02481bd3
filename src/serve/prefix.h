/*
 * prefix.h - which sequence of the KV cache holds which tokens.
 *
 *      empty --add--> busy (a job grows it) --> idle (ready for the next turn) --> busy ...
 *                                                 '-- emptied: the least recently used first
 *
 * Bookkeeping only: the caller changes the cache and notes here what it did. Callers may read all
 * fields and set `busy`, `n_stored`, `n_exact` and `shortest`. Not thread-safe.
 */
#ifndef FB_SERVE_PREFIX_H
#define FB_SERVE_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fb_prefix_seq {
    int32_t *tokens;
    uint32_t n, cap;
    uint64_t used;     /* when it was last used, by the table's clock */
    uint32_t n_stored; /* how many of its tokens are on disk */
    uint32_t n_exact;  /* first tokens that were computed as if alone: see fb_prefix_exact */
    uint32_t shortest; /* it cannot be cut or copied to fewer tokens than these */
    bool busy;
};

struct fb_prefix {
    int n_seq;
    struct fb_prefix_seq *seqs;
    uint64_t clock; /* counts uses */
};

void fb_prefix_init(struct fb_prefix *prefix, int n_seq);
void fb_prefix_release(struct fb_prefix *prefix);

/* Length of the common beginning of two lists. */
uint32_t fb_prefix_common(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b);

/* How many of `common` tokens may be reused. The last bits of a result depend on how many rows a
 * pass has. A prompt that is alone is computed in passes of `piece` tokens from its beginning on;
 * the n_exact tokens of a sequence were computed in such passes, of this sequence alone. So whole
 * pieces of them can be reused without a difference. `piece` 0: differences do not matter, all
 * are. */
uint32_t fb_prefix_exact(uint32_t common, uint32_t n_exact, uint32_t piece);

/* Returns the sequence with the longest common beginning with `tokens` that may be reused, and its
 * length in *common. Among equals an idle one before a busy one, then the shortest. -1, and *common
 * is 0, if there is none. */
int fb_prefix_find(const struct fb_prefix *prefix, const int32_t *tokens, uint32_t n,
    uint32_t piece, uint32_t *common);

/* The idle sequence with tokens that is least recently used, other than `keep`; -1: none. */
int fb_prefix_oldest(const struct fb_prefix *prefix, int keep);
/* An idle sequence without tokens, else fb_prefix_oldest; -1 if all but `keep` are busy. */
int fb_prefix_victim(const struct fb_prefix *prefix, int keep);

/* Notes a use. */
void fb_prefix_touch(struct fb_prefix *prefix, int seq);
/* Appends tokens. */
void fb_prefix_add(struct fb_prefix *prefix, int seq, const int32_t *tokens, uint32_t n);
/* Shortens a sequence to `n` tokens. */
void fb_prefix_cut(struct fb_prefix *prefix, int seq, uint32_t n);

#endif
