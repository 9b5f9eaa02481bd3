/* internal.h - the inside of a service: queue (service.c), sequences (slots.c), passes (passes.c). */
#ifndef ST_SERVE_INTERNAL_H
#define ST_SERVE_INTERNAL_H

#include <pthread.h>

#include "serve/job.h"
#include "serve/kv_store.h"
#include "serve/prefix.h"

/* An active job. Belongs to the model's thread. */
struct st_slot {
    struct st_job *job; /* NULL: free */
    int seq;
    uint32_t n_done; /* of the prompt, in the sequence */
    bool generating; /* `next` is to be evaluated */
    int32_t next;
    uint64_t turn; /* slots are served in this order */
};

#define ST_RATE_SECONDS 16

struct st_service {
    struct strata_model *model;
    struct strata_session *session;
    uint32_t ctx, batch;
    int parallel, queue_max;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;

    /* Guarded by `lock`. */
    struct st_job *waiting; /* in order of arrival */
    int n_waiting;
    int n_active; /* for others: the thread counts slots */
    bool draining, quit;
    struct st_service_stats stats;
    uint64_t rate_tokens[ST_RATE_SECONDS], rate_second[ST_RATE_SECONDS];

    /* The model's thread's. */
    struct st_slot *slots;
    struct st_prefix prefix;
    struct st_kv_store *store;
    struct strata_item *items; /* of the pass, `batch` of them */
    int *item_slot;            /* the slot that an item belongs to */
    uint64_t turns;
    uint64_t prompt_debt_ns; /* time that generating is owed for the prompts' passes */
    uint64_t stats_ns;       /* when the model's figures were taken */
    uint64_t idle_ns;        /* since when nothing is active; 0: something is */
};

/* --- slots.c: a job gets a sequence that begins as its prompt does ----------------------------- */

/* How much of the job's prompt is, or is about to be, in the cache. True if it should wait: an
 * active job is computing what they have in common. */
bool st_slots_should_wait(const struct st_service *service, const struct st_job *job);
struct st_slot *st_slots_free_one(struct st_service *service);
void st_slots_start(struct st_service *service, struct st_slot *slot, struct st_job *job);
/* The job has ended; what was computed stays in the cache. */
void st_slots_end(struct st_service *service, struct st_slot *slot, enum st_end end);
void st_slots_fail(
    struct st_service *service, struct st_slot *slot, const struct strata_error *err);
/* Makes room in the KV cache. False if nothing idle is left. */
bool st_slots_evict(struct st_service *service);
/* Writes one state that is not on disk yet; false if there is none. */
bool st_slots_save_one(struct st_service *service);

/* --- passes.c ---------------------------------------------------------------------------------- */

/* One pass for all active jobs. False if there was nothing to do. */
bool st_pass(struct st_service *service);

#endif
