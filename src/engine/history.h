/*
 * history.h - what a model showed in earlier runs: how its experts are reused, how long its tokens
 * take to compute. A small file per model in the cache directory; safe to delete, ignored when it
 * is damaged or of another model. Where there is no cache directory, nothing is kept.
 */
#ifndef FB_ENGINE_HISTORY_H
#define FB_ENGINE_HISTORY_H

#include "plan/curve.h"

struct fb_history;

/* Reads what is known of the model. Never fails: what cannot be read counts as nothing. `weights`
 * are copied from; later calls want weights with the same groups. */
struct fb_history *fb_history_open(const struct fb_weights *weights);
void fb_history_free(struct fb_history *history);

/* Reuse by group for fb_curves_new; NULL when nothing is known. */
const struct fb_reuse *fb_history_reuse(const struct fb_history *history);

/* Seconds that one token took to compute with these settings, without attention and what reads took
 * of the processors' time; 0: not known. */
double fb_history_compute_s(const struct fb_history *history, int threads, bool repack);
/* Seconds for one of a prompt's many tokens, with both. */
double fb_history_prompt_s(const struct fb_history *history, int threads, bool repack);

/* Share of the experts read for generated tokens that were foreseen; a guess when nothing is known. */
double fb_history_lookahead(const struct fb_history *history);
void fb_history_note_lookahead(
    struct fb_history *history, uint64_t lookahead_bytes, uint64_t read_bytes);

/* A row of a pass uses these experts (an fb_route_fn with the history as user). Counted when it is
 * a generated token's; a prompt's only say what was used last. */
void fb_history_note(void *history, int group, const int *experts, int n);
void fb_history_count(struct fb_history *history, bool generating);

/* What tokens took to compute, as above. */
struct fb_computed {
    uint64_t tokens;
    double seconds;
};

/* Adds the run's computing times, of tokens generated one by one and of long prompts, and writes the
 * file; a run of a few tokens is not worth it. */
void fb_history_save(struct fb_history *history, int threads, bool repack, struct fb_computed alone,
    struct fb_computed prompt);

#endif
