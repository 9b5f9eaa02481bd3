#include "serve/info.h"

#include <string.h>

#include "serve/answer.h"
#include "serve/served.h"

void fb_info_root(struct fb_request *r)
{
    fb_answer_text(r, 200, "text/plain; charset=utf-8", "Forebay is running");
}

void fb_info_health(struct fb_request *r)
{
    struct fb_service_stats stats = {0};
    const char *status = "loading";
    if (r->served) {
        fb_service_stats(r->served->service, &stats);
        status = stats.draining || r->served->stopping ? "shutting down"
                 : stats.unhealthy                     ? "unhealthy"
                                                       : "ok";
    }
    fb_answer_json(r, strcmp(status, "ok") == 0 ? 200 : 503, json_pack("{s:s}", "status", status));
}

struct metric {
    const char *name, *type, *help;
    double value;
};

void fb_info_metrics(struct fb_request *r)
{
    struct fb_service_stats s;
    struct fb_buffer out = FB_BUFFER_INIT;
    struct forebay_placement p;
    fb_service_stats(r->served->service, &s);
    forebay_model_placement(r->served->model, &p);
    const struct forebay_stats *m = &s.model;
    const struct metric metrics[] = {
        {"requests_total", "counter", "Requests for a reply.", (double)s.requests},
        {"requests_refused_total", "counter", "Requests refused because too many were waiting.",
            (double)s.refused},
        {"requests_failed_total", "counter", "Requests that ended with an error.",
            (double)s.failed},
        {"requests_cancelled_total", "counter", "Requests that ended because the client left.",
            (double)s.cancelled},
        {"queue_waiting", "gauge", "Requests that are waiting.", s.waiting},
        {"queue_active", "gauge", "Requests that are being computed.", s.active},
        {"queue_parallel", "gauge", "Requests that can be computed at once.", s.parallel},
        {"prompt_tokens_computed_total", "counter", "Tokens of prompts that were evaluated.",
            (double)s.prompt_tokens_computed},
        {"prompt_tokens_reused_total", "counter",
            "Tokens of prompts that were in the KV cache or on disk.",
            (double)s.prompt_tokens_reused},
        {"prompt_tokens_from_disk_total", "counter", "Of these, tokens that were on disk.",
            (double)s.prompt_tokens_from_disk},
        {"generated_tokens_total", "counter", "Tokens generated.", (double)s.generated_tokens},
        {"tokens_per_second", "gauge", "Tokens generated per second, over the last 15 seconds.",
            s.recent_tok_per_s},
        {"passes_total", "counter", "Evaluations of the model.", (double)s.passes},
        {"decode_passes_total", "counter", "Of these, passes without tokens of prompts.",
            (double)s.decode_passes},
        {"decode_rows_total", "counter", "Tokens in those passes.", (double)s.decode_rows},
        {"busy_seconds_total", "counter", "Time in passes.", s.busy_s},
        {"decode_seconds_total", "counter", "Of this, time in passes without tokens of prompts.",
            s.decode_s},
        {"compute_seconds_total", "counter", "Of the time in passes, computing.", m->compute_s},
        {"demand_stall_seconds_total", "counter", "Waiting for demand reads.", m->demand_stall_s},
        {"prefetch_stall_seconds_total", "counter", "Waiting for prefetch reads.",
            m->prefetch_stall_s},
        {"unpack_seconds_total", "counter", "Unpacking what was read: copying or repacking.",
            m->unpack_s},
        {"scheduler_seconds_total", "counter",
            "Of the time in passes, the rest: cache, reads, lookahead.", m->scheduler_s},
        {"disk_utilisation_ratio", "gauge",
            "U: bytes read while decoding / bytes that the disk can read in that time.",
            m->disk_utilisation},
        {"roofline_ratio", "gauge",
            "R: decode speed / speed if all weights of each token were read.", m->roofline_ratio},
        {"expert_hit_ratio", "gauge", "Experts that were in memory / experts needed.", m->hit_rate},
        {"expert_requests_total", "counter", "Experts needed.", (double)m->expert_requests},
        {"expert_hits_total", "counter", "Of these, experts that were in memory.",
            (double)m->expert_hits},
        {"read_bytes_total", "counter", "Bytes of weights read.", (double)m->read_bytes},
        {"decode_read_bytes_total", "counter", "Of these, in passes without tokens of prompts.",
            (double)m->decode_read_bytes},
        {"prefetch_bytes", "gauge", "Bytes prefetched.", (double)m->prefetch_bytes},
        {"prefetch_used_bytes", "gauge", "Of these, bytes that were used.",
            (double)m->prefetch_used_bytes},
        {"written_bytes_total", "counter", "Bytes written to disks.", (double)m->written_bytes},
        {"disk_bytes_per_second", "gauge", "Measured speed of the disk.", m->disk_bytes_per_s},
        {"memory_budget_bytes", "gauge", "Memory budget of the process.", (double)m->budget_bytes},
        {"memory_peak_bytes", "gauge", "Most memory that the process has held.",
            (double)m->peak_rss_bytes},
        {"memory_expert_slot_bytes", "gauge", "Memory of expert slots.", (double)p.cache_bytes},
        {"kv_cells", "gauge", "Tokens that the KV cache has room for.", (double)s.kv_cells},
        {"kv_tokens", "gauge", "Tokens of all sequences in the KV cache.", (double)s.kv_cells_used},
        {"kv_disk_bytes", "gauge", "Bytes of states in --kv-dir.", (double)s.kv_disk_bytes},
        {"kv_disk_states", "gauge", "States of this model in --kv-dir.", s.kv_disk_states},
    };
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        const struct metric *x = &metrics[i];
        fb_buffer_print(&out, "# HELP forebay_%s %s\n# TYPE forebay_%s %s\nforebay_%s %.15g\n",
            x->name, x->help, x->name, x->type, x->name, x->value);
    }
    fb_answer_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", out.data);
    fb_buffer_release(&out);
}
