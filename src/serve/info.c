#include "serve/info.h"

#include "serve/answer.h"
#include "serve/served.h"

void fb_info_root(struct fb_request *r)
{
    fb_answer_text(r, 200, "text/plain; charset=utf-8", "Forebay is running");
}

void fb_info_health(struct fb_request *r)
{
    struct fb_service_stats stats;
    fb_service_stats(r->served->service, &stats);
    fb_answer_json(r, stats.draining ? 503 : 200,
        json_pack("{s:s}", "status", stats.draining ? "shutting down" : "ok"));
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
        {"requests_total", "counter", "Replies asked for.", (double)s.requests},
        {"requests_refused_total", "counter", "Refused: too many waited.", (double)s.refused},
        {"requests_failed_total", "counter", "Ended by an error.", (double)s.failed},
        {"requests_cancelled_total", "counter", "Ended because the client left.",
            (double)s.cancelled},
        {"queue_waiting", "gauge", "Requests that wait.", s.waiting},
        {"queue_active", "gauge", "Requests that are computed.", s.active},
        {"queue_parallel", "gauge", "Requests that can be computed at once.", s.parallel},
        {"prompt_tokens_computed_total", "counter", "Tokens of prompts that were evaluated.",
            (double)s.prompt_tokens_computed},
        {"prompt_tokens_reused_total", "counter", "Tokens of prompts that the KV cache had.",
            (double)s.prompt_tokens_reused},
        {"prompt_tokens_from_disk_total", "counter", "Of these, from a file.",
            (double)s.prompt_tokens_from_disk},
        {"generated_tokens_total", "counter", "Tokens generated.", (double)s.generated_tokens},
        {"tokens_per_second", "gauge", "Tokens generated per second, over the last 15 seconds.",
            s.recent_tok_per_s},
        {"passes_total", "counter", "Passes over the weights.", (double)s.passes},
        {"decode_passes_total", "counter", "Of these, without a prompt.", (double)s.decode_passes},
        {"decode_rows_total", "counter", "Tokens of those.", (double)s.decode_rows},
        {"busy_seconds_total", "counter", "Time in passes.", s.busy_s},
        {"decode_seconds_total", "counter", "Of this, without a prompt.", s.decode_s},
        {"compute_seconds_total", "counter", "Of the time in passes: computing.", m->compute_s},
        {"demand_stall_seconds_total", "counter", "Waiting for reads of what was needed at once.",
            m->demand_stall_s},
        {"prefetch_stall_seconds_total", "counter", "Waiting for reads ahead of need.",
            m->prefetch_stall_s},
        {"unpack_seconds_total", "counter", "Putting what was read into place.", m->unpack_s},
        {"scheduler_seconds_total", "counter", "All else: deciding, foreseeing.", m->scheduler_s},
        {"disk_utilisation_ratio", "gauge", "U: bytes read while decoding / what the disk can do.",
            m->disk_utilisation},
        {"roofline_ratio", "gauge", "R: decode speed / that of reading everything.",
            m->roofline_ratio},
        {"expert_hit_ratio", "gauge", "Experts found in memory / experts needed.", m->hit_rate},
        {"expert_requests_total", "counter", "Experts needed.", (double)m->expert_requests},
        {"expert_hits_total", "counter", "Of these, found in memory.", (double)m->expert_hits},
        {"read_bytes_total", "counter", "Bytes of weights read.", (double)m->read_bytes},
        {"decode_read_bytes_total", "counter", "Of these, in passes without a prompt.",
            (double)m->decode_read_bytes},
        {"prefetch_bytes", "gauge", "Bytes read ahead of need.", (double)m->prefetch_bytes},
        {"prefetch_used_bytes", "gauge", "Of these, used.", (double)m->prefetch_used_bytes},
        {"written_bytes_total", "counter", "Bytes written to disks.", (double)m->written_bytes},
        {"disk_bytes_per_second", "gauge", "What the disk can do, measured.", m->disk_bytes_per_s},
        {"memory_budget_bytes", "gauge", "What the process may hold.", (double)m->budget_bytes},
        {"memory_peak_bytes", "gauge", "What it has held.", (double)m->peak_rss_bytes},
        {"memory_expert_slot_bytes", "gauge", "Memory for experts.", (double)p.cache_bytes},
        {"kv_cells", "gauge", "Tokens the KV cache has room for.", (double)s.kv_cells},
        {"kv_tokens", "gauge", "Tokens of all sequences in it.", (double)s.kv_cells_used},
        {"kv_disk_bytes", "gauge", "States on disk.", (double)s.kv_disk_bytes},
        {"kv_disk_states", "gauge", "How many of them are of this model.", s.kv_disk_states},
    };
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        const struct metric *x = &metrics[i];
        fb_buffer_print(&out, "# HELP forebay_%s %s\n# TYPE forebay_%s %s\nforebay_%s %.15g\n",
            x->name, x->help, x->name, x->type, x->name, x->value);
    }
    fb_answer_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", out.data);
    fb_buffer_release(&out);
}
