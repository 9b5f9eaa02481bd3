/*
 * passes.h - one evaluation of the model for all active jobs.
 *
 *      rows of a pass:  [ one token of each generating job | pieces of prompts, oldest job first ]
 *                                                            at most `prompt_rows` while a job
 *                                                            generates, and at most half of the
 *                                                            time (SV1)
 *
 * Everything here belongs to the model's thread.
 */
#ifndef FB_SERVE_PASSES_H
#define FB_SERVE_PASSES_H

#include "serve/kv_reuse.h"

struct fb_passes {
    const struct forebay_model *model;
    struct fb_sequences *sequences;
    struct fb_job_queue *queue;
    uint32_t rows_max, prompt_rows;
    struct forebay_item *items; /* the rows of a pass */
    int *item_active;           /* index of the active job that a row belongs to */
    uint64_t prompt_debt_ns;    /* time that passes without prompts are owed (SV1) */
    uint64_t model_stats_ns;    /* when the model's statistics were last published */
};

/* Passes of at most `rows_max` rows; `prompt_rows` of them of prompts while a job generates. */
void fb_passes_init(struct fb_passes *passes, const struct forebay_model *model,
    struct fb_sequences *sequences, uint32_t rows_max, uint32_t prompt_rows);
void fb_passes_release(struct fb_passes *passes);

/* Computes one pass, gives each job its token, and ends jobs that are complete, no longer
 * wanted, or failed. False if no active job could advance. */
bool fb_passes_run(struct fb_passes *passes);

/* Copies the model's present statistics into those of the service. */
void fb_passes_publish_stats(struct fb_passes *passes);

#endif
