/*
 * history.h - observations of a model in earlier runs: how its experts are reused, and how long its
 * tokens take to compute. They improve plans and estimates and never change a token.
 *
 * One small JSON file per model in the cache directory. It may be deleted at any time; a damaged
 * one counts as none. Without a cache directory nothing is kept. Not safe for several threads.
 */
#ifndef FB_ENGINE_HISTORY_H
#define FB_ENGINE_HISTORY_H

#include "plan/curve.h"

struct fb_history;

/* Reads the file of the model that the claimed weights belong to. Never fails: an unreadable file
 * counts as none. Keeps no pointer to `weights`; groups in later calls are theirs. */
struct fb_history *fb_history_open(const struct fb_weights *weights);
void fb_history_free(struct fb_history *history);

/* Stack distances by group, for fb_curves_new; NULL before any token was counted. */
const struct fb_reuse *fb_history_reuse(const struct fb_history *history);

/* Seconds that a token generated alone takes to compute with these settings, without attention and
 * the processor time of reads; 0: not known. */
double fb_history_compute_s(const struct fb_history *history, int threads, bool repack);
/* Seconds per token of a long prompt, attention and reads included; 0: not known. */
double fb_history_prompt_s(const struct fb_history *history, int threads, bool repack);

/* Fraction of the bytes of experts read for generated tokens that lookahead had requested; a usual
 * value when nothing is known. */
double fb_history_lookahead(const struct fb_history *history);
void fb_history_note_lookahead(
    struct fb_history *history, uint64_t lookahead_bytes, uint64_t expert_bytes);

/* An fb_route_fn, with the history as `user`: a row of the pass uses these experts. Rows of
 * generated tokens are counted; those of a prompt only update which experts were used last. */
void fb_history_note(void *history, int group, const int *experts, int n);
/* Call it before each pass: whether its rows are to be counted, as one token. */
void fb_history_count(struct fb_history *history, bool generating);

/* Time that a number of tokens took to compute. */
struct fb_computed {
    uint64_t tokens;
    double seconds;
};

/* Adds the times of a run (as in fb_history_compute_s and _prompt_s) and writes the file. Does
 * nothing for a run of only a few tokens. A file that cannot be written is a debug message. */
void fb_history_save(struct fb_history *history, int threads, bool repack, struct fb_computed alone,
    struct fb_computed prompt);

#endif
