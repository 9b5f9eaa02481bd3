/* service_stats.h - counters of a service, and tokens per second over the last seconds. */
#ifndef FB_SERVE_SERVICE_STATS_H
#define FB_SERVE_SERVICE_STATS_H

#include "forebay.h"

struct fb_service_stats {
    uint64_t requests, refused, failed, cancelled;
    /* prompt_tokens_from_disk is a part of prompt_tokens_reused. */
    uint64_t prompt_tokens_computed, prompt_tokens_reused, prompt_tokens_from_disk;
    uint64_t generated_tokens;
    uint64_t passes, decode_passes, decode_rows; /* decode: passes without tokens of prompts */
    double busy_s, decode_s;                     /* time in passes; in decode passes */
    double recent_tok_per_s;
    int waiting, active, parallel, queue_max;
    uint64_t kv_cells_used, kv_cells;
    uint64_t kv_disk_bytes;
    int kv_disk_states;
    bool draining;
    bool unhealthy;             /* the last pass failed because the model could not be read */
    struct forebay_stats model; /* taken after a pass, ten times per second at most */
};

/* --- Rate ---------------------------------------------------------------------------------- */

#define FB_RATE_SECONDS 16

/* Tokens of each of the last seconds, by the second modulo FB_RATE_SECONDS. Zero it before use. */
struct fb_rate {
    uint64_t tokens[FB_RATE_SECONDS], second[FB_RATE_SECONDS];
};

/* Times are fb_now_ns(). Not thread-safe. */
void fb_rate_add(struct fb_rate *rate, uint64_t now_ns, uint64_t tokens);
/* Tokens per second over the FB_RATE_SECONDS - 1 whole seconds before the current one. */
double fb_rate_get(const struct fb_rate *rate, uint64_t now_ns);

#endif
