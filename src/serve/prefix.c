#include "serve/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void fb_prefix_init(struct fb_prefix *p, int n_seq)
{
    *p = (struct fb_prefix){.n_seq = n_seq};
    p->seqs = fb_xcalloc((size_t)n_seq, sizeof *p->seqs);
}

void fb_prefix_release(struct fb_prefix *p)
{
    for (int i = 0; i < p->n_seq; i++) {
        free(p->seqs[i].tokens);
    }
    free(p->seqs);
    *p = (struct fb_prefix){0};
}

uint32_t fb_prefix_common(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t i = 0;
    while (i < n_a && i < n_b && a[i] == b[i]) {
        i++;
    }
    return i;
}

uint32_t fb_prefix_exact(uint32_t common, uint32_t n_exact, uint32_t piece)
{
    if (piece == 0) {
        return common;
    }
    uint32_t exact = common < n_exact ? common : n_exact;
    return exact - exact % piece;
}

int fb_prefix_find(
    const struct fb_prefix *p, const int32_t *tokens, uint32_t n, uint32_t piece, uint32_t *common)
{
    int best = -1;
    *common = 0;
    for (int i = 0; i < p->n_seq; i++) {
        const struct fb_prefix_seq *s = &p->seqs[i];
        uint32_t have = fb_prefix_common(s->tokens, s->n, tokens, n);
        have = fb_prefix_exact(have, s->n_exact, piece);
        if (have == 0 || have < s->shortest) {
            continue;
        }
        bool better = have > *common || (have == *common && p->seqs[best].busy && !s->busy) ||
                      (have == *common && p->seqs[best].busy == s->busy && s->n < p->seqs[best].n);
        if (best < 0 || better) {
            best = i;
            *common = have;
        }
    }
    return best;
}

int fb_prefix_oldest(const struct fb_prefix *p, int keep)
{
    int oldest = -1;
    for (int i = 0; i < p->n_seq; i++) {
        if (!p->seqs[i].busy && p->seqs[i].n > 0 && i != keep &&
            (oldest < 0 || p->seqs[i].used < p->seqs[oldest].used)) {
            oldest = i;
        }
    }
    return oldest;
}

int fb_prefix_victim(const struct fb_prefix *p, int keep)
{
    for (int i = 0; i < p->n_seq; i++) {
        if (!p->seqs[i].busy && p->seqs[i].n == 0 && i != keep) {
            return i;
        }
    }
    return fb_prefix_oldest(p, keep);
}

void fb_prefix_touch(struct fb_prefix *p, int seq)
{
    p->seqs[seq].used = ++p->clock;
}

void fb_prefix_add(struct fb_prefix *p, int seq, const int32_t *tokens, uint32_t n)
{
    struct fb_prefix_seq *s = &p->seqs[seq];
    if (n == 0) {
        return;
    }
    if (s->n + n > s->cap) {
        s->cap = 2 * (s->n + n);
        s->tokens = fb_xrealloc(s->tokens, s->cap * sizeof *s->tokens);
    }
    memcpy(s->tokens + s->n, tokens, n * sizeof *tokens);
    s->n += n;
}

void fb_prefix_cut(struct fb_prefix *p, int seq, uint32_t n)
{
    struct fb_prefix_seq *s = &p->seqs[seq];
    s->n = n < s->n ? n : s->n;
    s->n_stored = n < s->n_stored ? 0 : s->n_stored;
    s->n_exact = n < s->n_exact ? n : s->n_exact;
}
