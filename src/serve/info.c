/* info.c - what is said about the model and the server: cards, health, metrics, Ollama's lists. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "serve/exchange.h"

/* --- The model's card ---------------------------------------------------------------------- */

/* The type of most of its bytes. */
static const char *usual_type(const struct forebay_file *file, int n_tensors)
{
    static char name[32];
    const char *names[64];
    uint64_t bytes[64] = {0};
    int n = 0, best = 0;
    for (int i = 0; i < n_tensors; i++) {
        struct forebay_tensor_info t;
        forebay_file_tensor(file, i, &t);
        int at = 0;
        while (at < n && strcmp(names[at], t.type) != 0) {
            at++;
        }
        if (at == n && n < 64) {
            names[n++] = t.type;
        }
        if (at < n) {
            bytes[at] += t.bytes;
            best = bytes[at] > bytes[best] ? at : best;
        }
    }
    snprintf(name, sizeof name, "%s", n > 0 ? names[best] : "unknown");
    return name;
}

static void format_time(time_t when, char *text, size_t cap)
{
    struct tm tm;
    gmtime_r(&when, &tm);
    strftime(text, cap, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* File names and GGUFs may hold any bytes; JSON may not. */
static void copy_text(char *out, size_t cap, const char *text)
{
    json_t *valid = fb_json_text(text, strlen(text));
    snprintf(out, cap, "%s", json_string_value(valid));
    json_decref(valid);
}

enum forebay_status fb_model_card_make(struct fb_server *s, struct forebay_error *err)
{
    struct forebay_file *file;
    struct forebay_file_info info;
    struct stat st;
    struct fb_model_card *card = &s->card;
    enum forebay_status status = forebay_file_open(s->options.path, &file, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    forebay_file_describe(file, &info);
    copy_text(card->name, sizeof card->name, s->options.name);
    copy_text(card->arch, sizeof card->arch, info.arch);
    snprintf(card->quantization, sizeof card->quantization, "%s", usual_type(file, info.n_tensors));
    double billions = (double)info.parameters * 1e-9;
    snprintf(card->parameter_size, sizeof card->parameter_size, billions >= 1 ? "%.1fB" : "%.1fM",
        billions >= 1 ? billions : billions * 1000);
    card->parameters = info.parameters;
    card->file_bytes = info.file_bytes;
    uint64_t print = forebay_state_fingerprint(s->model);
    snprintf(card->digest, sizeof card->digest, "%064llx", (unsigned long long)print);
    format_time(stat(s->options.path, &st) == 0 ? st.st_mtime : time(NULL), card->modified,
        sizeof card->modified);
    s->started_s = (double)time(NULL);
    forebay_file_free(file);
    return FOREBAY_OK;
}

bool fb_is_model(const struct fb_server *s, const char *name)
{
    size_t n = strcspn(name, ":");
    return strcmp(name, s->card.name) == 0 ||
           (strcmp(name + n, ":latest") == 0 && strlen(s->card.name) == n &&
               strncmp(name, s->card.name, n) == 0);
}

/* --- Ollama's lists ------------------------------------------------------------------------ */

static json_t *details(const struct fb_server *s)
{
    return json_pack("{s:s,s:s,s:s,s:[s],s:s,s:s}", "parent_model", "", "format", "gguf", "family",
        s->card.arch, "families", s->card.arch, "parameter_size", s->card.parameter_size,
        "quantization_level", s->card.quantization);
}

static json_t *listed(const struct fb_server *s)
{
    return json_pack("{s:s,s:s,s:I,s:s,s:o}", "name", s->card.name, "model", s->card.name, "size",
        (json_int_t)s->card.file_bytes, "digest", s->card.digest, "details", details(s));
}

void fb_ollama_tags(struct fb_request *r)
{
    const struct fb_server *s = fb_request_server(r);
    json_t *model = listed(s);
    json_object_set_new(model, "modified_at", json_string(s->card.modified));
    fb_answer_json(r, 200, json_pack("{s:[o]}", "models", model));
}

void fb_ollama_ps(struct fb_request *r)
{
    const struct fb_server *s = fb_request_server(r);
    struct forebay_placement placement;
    forebay_model_placement(s->model, &placement);
    json_t *model = listed(s);
    json_object_set_new(model, "expires_at", json_string("9999-12-31T23:59:59Z"));
    json_object_set_new(model, "size_vram", json_integer((json_int_t)placement.device.bytes));
    json_object_set_new(
        model, "context_length", json_integer((json_int_t)forebay_model_ctx(s->model)));
    fb_answer_json(r, 200, json_pack("{s:[o]}", "models", model));
}

void fb_ollama_version(struct fb_request *r)
{
    fb_answer_json(r, 200, json_pack("{s:s}", "version", forebay_version()));
}

static json_t *capabilities(const struct fb_server *s)
{
    json_t *list = json_pack("[s]", "completion");
    if (s->chat && forebay_chat_has_tools(s->chat)) {
        json_array_append_new(list, json_string("tools"));
    }
    if (s->chat && forebay_chat_can_think(s->chat)) {
        json_array_append_new(list, json_string("thinking"));
    }
    return list;
}

void fb_ollama_show(struct fb_request *r)
{
    const struct fb_server *s = fb_request_server(r);
    struct fb_fields f;
    size_t n;
    const char *body = fb_request_body(r, &n), *name = NULL;
    json_t *object = fb_fields_parse(&f, body, n);
    if (object) {
        name = fb_field_string(&f, "model", fb_field_string(&f, "name", NULL));
        if (!name) {
            fb_fields_fail(&f, "model is missing");
        }
    }
    if (f.bad) {
        fb_answer_error(r, 400, "%s", f.message);
    } else if (!fb_is_model(s, name)) {
        fb_answer_no_model(r, name);
    } else {
        char ctx_key[96];
        snprintf(ctx_key, sizeof ctx_key, "%s.context_length", s->card.arch);
        fb_answer_json(r, 200,
            json_pack("{s:s,s:s,s:s,s:o,s:o,s:{s:s,s:I,s:I},s:o,s:s}", "license", "", "modelfile",
                "", "parameters", "", "template",
                s->chat ? fb_json_text(forebay_chat_template(s->chat),
                              strlen(forebay_chat_template(s->chat)))
                        : json_string(""),
                "details", details(s), "model_info", "general.architecture", s->card.arch,
                "general.parameter_count", (json_int_t)s->card.parameters, ctx_key,
                (json_int_t)forebay_model_ctx_train(s->model), "capabilities", capabilities(s),
                "modified_at", s->card.modified));
    }
    json_decref(object);
}

void fb_ollama_embed(struct fb_request *r)
{
    fb_answer_error(r, 400, "this model does not support embeddings");
}

void fb_ollama_unsupported(struct fb_request *r)
{
    fb_answer_error(r, 400, "this server serves one model, and does not manage models");
}

/* --- Health and metrics -------------------------------------------------------------------- */

void fb_answer_root(struct fb_request *r)
{
    fb_answer_text(r, 200, "text/plain; charset=utf-8", "Forebay is running");
}

void fb_answer_health(struct fb_request *r)
{
    struct fb_service_stats stats;
    fb_service_stats(fb_request_server(r)->service, &stats);
    fb_answer_json(r, stats.draining ? 503 : 200,
        json_pack("{s:s}", "status", stats.draining ? "shutting down" : "ok"));
}

struct metric {
    const char *name, *type, *help;
    double value;
};

void fb_answer_metrics(struct fb_request *r)
{
    struct fb_service_stats s;
    struct fb_buffer out = FB_BUFFER_INIT;
    struct forebay_placement p;
    fb_service_stats(fb_request_server(r)->service, &s);
    forebay_model_placement(fb_request_server(r)->model, &p);
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
