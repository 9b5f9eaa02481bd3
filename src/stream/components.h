/*
 * components.h - the components of a stream, for those files of stream/ whose functions work on
 * several of them. The components declared in the headers below do not know the stream; loads fills
 * the pools of slots, and no other component knows another.
 *
 *      stream, preload
 *         sets      leases            functions on the stream, declared in headers of their own;
 *           adapt, prefetch, dense    included in this order only
 *      components.h
 *         loads     ring   transit    components
 *         slots     elastic
 *         pool      unpack
 */
#ifndef FB_STREAM_COMPONENTS_H
#define FB_STREAM_COMPONENTS_H

#include <stdatomic.h>

#include "stream/elastic.h"
#include "stream/loads.h"
#include "stream/ring.h"
#include "stream/slots.h"
#include "stream/transit.h"

#define FB_MAX_LEASES 2 /* open at once */

struct fb_lease;
struct fb_prefetch_list;
struct fb_sets;

struct fb_stream {
    const struct fb_weights *weights;
    struct fb_io_engine *io;
    struct fb_unpacker unpacker;
    bool preload; /* every expert has a slot: read them all before the first token */

    /* Dense weights (dense.c). Resident ones lie one after another, weight w at place[w]; elastic
     * knows which of them are present. */
    char *resident;
    uint64_t resident_bytes;
    uint64_t *place; /* [n_weights]; UINT64_MAX: not resident */
    struct fb_elastic elastic;
    struct fb_ring *ring; /* NULL: nothing can be streamed, or not loaded yet */
    uint64_t ring_bytes;  /* as planned; 0: elastic's, if there is one */
    bool in_ring;         /* the acquired weight is used where it was read ... */
    char *scratch;        /* ... or here, in its computed form */
    uint64_t scratch_bytes;

    /* Experts; unused without groups. */
    struct fb_slots slots;
    struct fb_loads loads;
    struct fb_prefetch_list *prefetch_lists; /* prefetch.c; [n_groups] */
    struct fb_lease *leases[FB_MAX_LEASES];  /* leases.c: the n_leases open ones, oldest first */
    int n_leases;
    struct fb_transit *transit;   /* NULL: not planned */
    struct fb_sets *sets;         /* sets.c; NULL with transit */
    bool *taught;                 /* [n_groups] levels.c tells the cache of the group's uses */
    struct fb_stream_stats stats; /* of requests; reads are counted by components */

    /* Memory (adapt.c). */
    _Atomic uint64_t target, held;
    _Atomic uint64_t shrinks, grows;
    uint64_t heeded;       /* the target last acted on */
    uint64_t adapted;      /* the target last reached ... */
    uint64_t adapted_lent; /* ... while so much was lent */
    uint64_t spare_bytes;  /* of the plan's budget, that nothing is planned for */
    uint64_t pass_bytes;   /* fb_stream_lend */
    bool transit_used;     /* its memory counts, and may be touched */
    int last_scheduled;    /* group of the matrix that was scheduled last */
    int passes_without;    /* in a row that had no use for it */
    uint64_t lent;         /* that the slots go without now */
    uint64_t no_room_ns;   /* while loading: waited for memory since there was enough */
};

#endif
