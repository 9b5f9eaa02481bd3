/*
 * stats.h - counters of a stream since it was made.
 *
 * Each component that reads (ring, loads, transit) counts into a struct of its own and leaves the
 * other fields 0; fb_stream_stats adds them up.
 */
#ifndef FB_STREAM_STATS_H
#define FB_STREAM_STATS_H

#include "io/io.h"

struct fb_stream_stats {
    uint64_t demand_bytes;        /* file bytes of demand reads */
    uint64_t prefetch_bytes;      /* file bytes of reads made before they were needed */
    uint64_t prefetch_used_bytes; /* of prefetch_bytes, used */
    uint64_t expert_bytes;        /* of demand_bytes and prefetch_used_bytes, those of experts */
    uint64_t lookahead_bytes;     /* of expert_bytes, those of lookahead guesses that came true */
    uint64_t expert_requests;     /* one expert needed by one token at one layer */
    uint64_t expert_hits;         /* of expert_requests: present when needed, and not prefetched */
    uint64_t stall_ns;            /* waiting for reads */
    uint64_t prefetch_stall_ns;   /* of stall_ns, waiting for reads made before they were needed */
    uint64_t unpack_ns;           /* verifying and unpacking */
    uint64_t memory_bytes;        /* planned for weights */
    uint64_t shrinks, grows;      /* times that memory was given back, and regained */
    struct fb_io_counters io;
    const char *io_method;
};

/* Adds every counter of `part` to *sum, except those of the I/O engine (io, io_method). */
static inline void fb_stream_stats_add(
    struct fb_stream_stats *sum, const struct fb_stream_stats *part)
{
    sum->demand_bytes += part->demand_bytes;
    sum->prefetch_bytes += part->prefetch_bytes;
    sum->prefetch_used_bytes += part->prefetch_used_bytes;
    sum->expert_bytes += part->expert_bytes;
    sum->lookahead_bytes += part->lookahead_bytes;
    sum->expert_requests += part->expert_requests;
    sum->expert_hits += part->expert_hits;
    sum->stall_ns += part->stall_ns;
    sum->prefetch_stall_ns += part->prefetch_stall_ns;
    sum->unpack_ns += part->unpack_ns;
    sum->memory_bytes += part->memory_bytes;
    sum->shrinks += part->shrinks;
    sum->grows += part->grows;
}

#endif
