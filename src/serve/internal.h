/* internal.h - the inside of a service: queue (service.c), sequences (kv_reuse.c), passes (passes.c). */
#ifndef FB_SERVE_INTERNAL_H
#define FB_SERVE_INTERNAL_H

#include <pthread.h>

#include "serve/job.h"
#include "serve/kv_store.h"
#include "serve/prefix.h"

/* An active job. Belongs to the model's thread. */
struct fb_slot {
    struct fb_job *job; /* NULL: free */
    int seq;
    uint32_t n_done; /* of the prompt, in the sequence */
    bool generating; /* `next` is to be evaluated */
    int32_t next;
    uint64_t turn; /* slots are served in this order */
};

#define FB_RATE_SECONDS 16

struct fb_service {
    struct forebay_model *model;
    struct forebay_session *session;
    uint32_t ctx, batch;
    int parallel, queue_max;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;

    /* Guarded by `lock`. */
    struct fb_job *waiting; /* in order of arrival */
    int n_waiting;
    int n_active; /* for others: the thread counts slots */
    bool draining, quit;
    struct fb_service_stats stats;
    uint64_t rate_tokens[FB_RATE_SECONDS], rate_second[FB_RATE_SECONDS];

    /* The model's thread's. */
    struct fb_slot *slots;
    struct fb_prefix prefix;
    struct fb_kv_store *store;
    struct forebay_item *items; /* of the pass, `batch` of them */
    int *item_slot;             /* the slot that an item belongs to */
    uint64_t turns;
    uint64_t prompt_debt_ns; /* time that generating is owed for the prompts' passes */
    uint64_t stats_ns;       /* when the model's figures were taken */
    uint64_t idle_ns;        /* since when nothing is active; 0: something is */
};

/* --- kv_reuse.c: a job gets a sequence that begins as its prompt does ----------------------------- */

/* How much of the job's prompt is, or is about to be, in the cache. True if it should wait: an
 * active job is computing what they have in common. */
bool fb_slots_should_wait(const struct fb_service *service, const struct fb_job *job);
struct fb_slot *fb_slots_free_one(struct fb_service *service);
void fb_slots_start(struct fb_service *service, struct fb_slot *slot, struct fb_job *job);
/* The job has ended; what was computed stays in the cache. */
void fb_slots_end(struct fb_service *service, struct fb_slot *slot, enum fb_end end);
void fb_slots_fail(
    struct fb_service *service, struct fb_slot *slot, const struct forebay_error *err);
/* Makes room in the KV cache. False if nothing idle is left. */
bool fb_slots_evict(struct fb_service *service);
/* Writes one state that is not on disk yet; false if there is none. */
bool fb_slots_save_one(struct fb_service *service);

/* --- passes.c ---------------------------------------------------------------------------------- */

/* One pass for all active jobs. False if there was nothing to do. */
bool fb_service_pass(struct fb_service *service);

#endif
