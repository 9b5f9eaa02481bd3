/*
 * prefix.h - which sequence of the KV cache holds which tokens. Pure bookkeeping: the caller does to
 * the cache what it notes here.
 *
 *      empty --add--> busy (a request grows it) --> idle (kept for the next turn) --> busy ...
 *                                                      `-- the longest unused goes first
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
    uint32_t n_stored; /* of its tokens, how many are on disk */
    bool busy;
};

struct fb_prefix {
    int n_seq;
    struct fb_prefix_seq *seqs;
    uint64_t clock;
};

void fb_prefix_init(struct fb_prefix *prefix, int n_seq);
void fb_prefix_release(struct fb_prefix *prefix);

/* How many tokens two lists have in common at their beginning. */
uint32_t fb_prefix_common(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b);

/* The sequence, busy or idle, that has most in common with the tokens, an idle one before a busy
 * one; *common is how much. `whole`: only where all of the sequence is common. -1 if none. */
int fb_prefix_find(const struct fb_prefix *prefix, const int32_t *tokens, uint32_t n, bool whole,
    uint32_t *common);

/* An empty sequence, else the idle one that was not used for longest; `keep` is never chosen. -1 if
 * all are busy. */
int fb_prefix_victim(const struct fb_prefix *prefix, int keep);
/* The idle sequence with tokens that was not used for longest; -1: none. */
int fb_prefix_oldest(const struct fb_prefix *prefix, int keep);

void fb_prefix_touch(struct fb_prefix *prefix, int seq);
void fb_prefix_add(struct fb_prefix *prefix, int seq, const int32_t *tokens, uint32_t n);
void fb_prefix_cut(struct fb_prefix *prefix, int seq, uint32_t n);

#endif
