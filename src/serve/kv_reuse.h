/*
 * kv_reuse.h - gives each active job a sequence of the KV cache that holds much of its prompt.
 *
 * An active job grows one sequence. Where it starts:
 *
 *      an idle sequence that the whole prompt continues      taken over
 *      an idle or busy one that begins like the prompt       what they share is copied: same cells
 *      a state on disk that shares more than those           loaded into an empty sequence
 *      none of them                                          an empty sequence
 *
 * Exact reuse (SV6): the last bits of a result depend on the rows of the passes that computed it,
 * and on where in the cache its cells are. A job that is alone starts only with whole pieces that
 * were computed as they would be without reuse (n_exact, prefix.h), so that the rest of its prompt
 * is computed in the same pieces, too; and all other sequences are stored and emptied:
 *
 *      first turn   | piece | piece | rest of the prompt | generated |
 *      next turn    | reused        | piece                          | rest of the prompt | ...
 *
 * State that cannot be cut (recurrent models) is copied where the last piece of a prompt begins.
 * With others, whose rows are in its passes anyway, a job starts with all that is there.
 *
 * A sequence whose job has ended stays in the cache, idle, for the next turn of its conversation,
 * until its room is needed: then it is stored on disk and emptied, the least recently used first.
 *
 * Everything here belongs to the model's thread.
 */
#ifndef FB_SERVE_KV_REUSE_H
#define FB_SERVE_KV_REUSE_H

#include "serve/job_queue.h"
#include "serve/kv_store.h"
#include "serve/prefix.h"

/* An active job and the sequence it grows. */
struct fb_active {
    struct fb_job *job; /* NULL: this entry is free */
    int seq;            /* number of the sequence in the session and in `prefix` */
    uint32_t n_done;    /* tokens of the prompt that are in the sequence */
    bool generating;    /* the prompt is complete; `next` is to be evaluated */
    int32_t next;
    bool exact;    /* exact reuse: it was alone until now */
    uint64_t turn; /* order of activation */
};

struct fb_sequences {
    struct forebay_session *session;
    uint32_t ctx;     /* tokens of a sequence, at most */
    uint32_t piece;   /* exact reuse: tokens of a pass of a prompt that is alone; 0: reuse all */
    uint32_t cut_max; /* forebay_seq_cut_max */
    struct fb_active *active;
    int n_active_max;
    struct fb_prefix prefix;   /* which tokens each sequence holds */
    struct fb_kv_store *store; /* NULL: nothing is stored */
    struct fb_job_queue *queue;
    uint64_t turns;
};

/* Of the session's `n_seq` sequences, `n_active_max` may be active. `piece`: see there. Owns the
 * session and, unless NULL, the store from here on. */
void fb_sequences_init(struct fb_sequences *sequences, struct fb_job_queue *queue,
    struct forebay_session *session, struct fb_kv_store *store, uint32_t ctx, uint32_t piece,
    int n_seq, int n_active_max);
void fb_sequences_release(struct fb_sequences *sequences);

/* True if the job should wait (SV2): an active job is computing a beginning that both prompts share
 * and that is not in the cache yet. */
bool fb_sequences_should_wait(struct fb_sequences *sequences, const struct fb_job *job);

/* A free entry of `active`; NULL if none. */
struct fb_active *fb_sequences_find_free(struct fb_sequences *sequences);
/* Gives the job a sequence. May read and write states on disk. */
void fb_sequences_start(
    struct fb_sequences *sequences, struct fb_active *active, struct fb_job *job);
/* A pass of n tokens of this job's prompt, and of no other tokens, has been computed. */
void fb_sequences_note_pass(struct fb_sequences *sequences, struct fb_active *active, uint32_t n);
/* The job has ended: frees the entry; the sequence stays in the cache. The job may be freed. */
void fb_sequences_end(struct fb_sequences *sequences, struct fb_active *active, enum fb_end end);
/* The same for FB_END_FAILED, but the sequence is emptied. */
void fb_sequences_fail(
    struct fb_sequences *sequences, struct fb_active *active, const struct forebay_error *err);

/* Stores and empties the idle sequence that was not used for longest. False if none is left. */
bool fb_sequences_evict(struct fb_sequences *sequences);
/* Stores one idle sequence that is not on disk yet; false if there is none. */
bool fb_sequences_store_one(struct fb_sequences *sequences);

#endif
