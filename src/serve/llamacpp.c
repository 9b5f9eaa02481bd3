/*
 * llamacpp.c - routes of llama.cpp's server: completions, infilling, tokens, properties.
 *
 * A completion is an object with the text; a list of prompts is answered by a list of such objects.
 * A stream is events with pieces of text, and one with the whole object but no text for each end.
 */
#include "serve/llamacpp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/answer.h"
#include "serve/exchange.h"
#include "serve/prompts.h"

/* One reply. */
struct completion {
    struct fb_buffer text; /* of all tokens, or, in a stream, none */
    json_t *tokens;        /* since the last event */
    json_t *probabilities; /* likewise; NULL: none were asked for */
};

/* fb_exchange.state */
struct llamacpp_state {
    struct completion *completions; /* [n] */
    int n;
    bool list; /* the prompt was a list of prompts */
    bool mute; /* only the prompt is to be computed, for later requests (n_predict: 0) */
};

static struct llamacpp_state *state_of(const struct fb_exchange *x)
{
    return x->state;
}

static struct completion *completion_of(const struct fb_exchange *x, int c)
{
    struct llamacpp_state *s = state_of(x);
    if (!s->completions) { /* how many there are is known when it runs */
        s->n = x->n_choices;
        s->completions = fb_xcalloc((size_t)s->n, sizeof *s->completions);
        for (int i = 0; i < s->n; i++) {
            fb_buffer_init(&s->completions[i].text);
            s->completions[i].tokens = json_array();
        }
    }
    return &s->completions[c];
}

static void free_state(void *state)
{
    struct llamacpp_state *s = state;
    for (int i = 0; i < s->n; i++) {
        fb_buffer_release(&s->completions[i].text);
        json_decref(s->completions[i].tokens);
        json_decref(s->completions[i].probabilities);
    }
    free(s->completions);
    free(s);
}

/* --- Completions --------------------------------------------------------------------------- */

static json_t *probability(const struct fb_exchange *x, int32_t token, float logprob)
{
    char piece[512];
    size_t n = forebay_token_bytes(x->served->model, token, piece, sizeof piece);
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(bytes, json_integer((unsigned char)piece[i]));
    }
    return json_pack("{s:i,s:o,s:o,s:f}", "id", (int)token, "token", fb_json_text(piece, n),
        "bytes", bytes, "logprob", isfinite(logprob) ? (double)logprob : -9999.0);
}

static void on_token(struct fb_exchange *x, int c, const struct fb_piece *piece)
{
    struct completion *done = completion_of(x, c);
    if (state_of(x)->mute) {
        return;
    }
    json_array_append_new(done->tokens, json_integer(piece->token));
    if (piece->n_top > 0) {
        json_t *entry = probability(x, piece->token, piece->logprob), *top = json_array();
        for (int i = 0; i < piece->n_top; i++) {
            json_array_append_new(top, probability(x, piece->top[i].token, piece->top[i].logprob));
        }
        json_object_set_new(entry, "top_logprobs", top);
        done->probabilities = done->probabilities ? done->probabilities : json_array();
        json_array_append_new(done->probabilities, entry);
    }
}

/* The fields that events and whole answers share; takes tokens and probabilities. */
static json_t *new_object(struct fb_exchange *x, int c, json_t *text, bool stop)
{
    struct completion *done = completion_of(x, c);
    size_t n_prompt;
    forebay_prompt_tokens(x->prompts[c / x->n], &n_prompt);
    json_t *object = json_pack("{s:i,s:o,s:o,s:b,s:I}", "index", c, "content", text, "tokens",
        done->tokens, "stop", stop, "tokens_evaluated", (json_int_t)n_prompt);
    done->tokens = json_array();
    if (done->probabilities) {
        json_object_set_new(object, "completion_probabilities", done->probabilities);
        done->probabilities = NULL;
    }
    return object;
}

static json_t *timings(const struct fb_result *r)
{
    uint32_t computed = r->n_prompt - r->n_reused;
    return json_pack("{s:I,s:I,s:f,s:f,s:I,s:f,s:f}", "cache_n", (json_int_t)r->n_reused,
        "prompt_n", (json_int_t)computed, "prompt_ms", r->prompt_s * 1e3, "prompt_per_second",
        r->prompt_s > 0 ? computed / r->prompt_s : 0, "predicted_n", (json_int_t)r->n_generated,
        "predicted_ms", r->generate_s * 1e3, "predicted_per_second",
        r->generate_s > 0 ? r->n_generated / r->generate_s : 0);
}

/* The whole answer of a choice that has ended. */
static json_t *ended_object(struct fb_exchange *x, int c, json_t *text)
{
    const struct fb_result *r = x->choices[c].result;
    json_t *object = new_object(x, c, text, true);
    const char *why = r->end == FB_END_LENGTH ? "limit" : r->end == FB_END_STRING ? "word" : "eos";
    json_t *more = json_pack("{s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:o}", "model", x->model, "stop_type",
        why, "stopping_word", r->end == FB_END_STRING && r->stop ? r->stop : "", "truncated", 0,
        "tokens_predicted", (json_int_t)r->n_generated, "tokens_evaluated", (json_int_t)r->n_prompt,
        "tokens_cached", (json_int_t)(r->n_prompt + r->n_generated), "timings", timings(r));
    json_object_update(object, more);
    json_decref(more);
    return object;
}

static void write_event(struct fb_buffer *out, json_t *object)
{
    fb_buffer_print(out, "data: ");
    fb_buffer_json(out, object);
    fb_buffer_print(out, "\n\n");
}

static void on_delta(
    struct fb_exchange *x, int c, const struct forebay_delta *d, struct fb_buffer *out)
{
    if (state_of(x)->mute) {
        return;
    }
    if (x->stream) {
        write_event(out, new_object(x, c, fb_json_text(d->text, d->length), false));
    } else {
        fb_buffer_add(&completion_of(x, c)->text, d->text, d->length);
    }
}

static void on_finish(struct fb_exchange *x, int c, struct fb_buffer *out)
{
    if (x->stream) {
        write_event(out, ended_object(x, c, json_string("")));
    }
}

static void on_failure(
    struct fb_exchange *x, int status, const char *message, struct fb_buffer *out)
{
    write_event(out, fb_error_json(x->request->api, status, NULL, message));
}

static void keep_alive(struct fb_buffer *out)
{
    fb_buffer_print(out, ": still here\n\n");
}

static json_t *whole(struct fb_exchange *x)
{
    json_t *list = json_array();
    for (int c = 0; c < x->n_choices; c++) {
        const struct fb_buffer *text = &completion_of(x, c)->text;
        json_array_append_new(list, ended_object(x, c, fb_json_text(text->data, text->n)));
    }
    if (state_of(x)->list) {
        return list;
    }
    json_t *only = json_incref(json_array_get(list, 0));
    json_decref(list);
    return only;
}

static const struct fb_dialect dialect = {
    .type = "text/event-stream",
    .token = on_token,
    .delta = on_delta,
    .finish = on_finish,
    .fail = on_failure,
    .keep_alive = keep_alive,
    .whole = whole,
    .free_state = free_state,
};

/* Reads the fields that completions and infilling share. NULL: the request has been answered. */
static struct fb_exchange *begin(struct fb_request *r, struct fb_fields *f)
{
    struct fb_exchange *x = fb_exchange_new(r, &dialect);
    if (!x) {
        return NULL;
    }
    x->state = fb_xcalloc(1, sizeof(struct llamacpp_state));
    *f = (struct fb_fields){.object = x->body};
    x->stream = fb_field_bool(f, "stream", false);
    json_t *limit = fb_field(f, "n_predict");
    state_of(x)->mute = json_is_integer(limit) && json_integer_value(limit) == 0;
    x->n_predict = state_of(x)->mute
                       ? 1
                       : fb_params_limit(f, "n_predict", fb_params_limit(f, "max_tokens", -1));
    x->n_top = (int)fb_field_int(f, "n_probs", 0, 0, FB_TOP_MAX);
    fb_params_sampling(f, &x->sampling, 100);
    x->n_stops = fb_params_stops(f, "stop", x->stops);
    fb_exchange_biases(x, f);
    fb_exchange_format(x, f, x->body);
    return x;
}

void fb_llamacpp_completion(struct fb_request *r)
{
    struct fb_fields f;
    struct fb_exchange *x = begin(r, &f);
    if (x) {
        fb_exchange_prompts(x, &f, fb_field(&f, "prompt"), true);
        state_of(x)->list = x->n_prompts > 1;
        fb_exchange_run(x, &f);
    }
}

/* --- Infilling ----------------------------------------------------------------------------- */

/* Text of other files, each with its name before it. */
static void add_extra(struct fb_fields *f, struct fb_buffer *out)
{
    json_t *list = fb_field_array(f, "input_extra"), *file;
    size_t i;
    json_array_foreach(list, i, file)
    {
        json_t *text = json_object_get(file, "text"), *name = json_object_get(file, "filename");
        if (!json_is_string(text)) {
            fb_fields_fail(f, "input_extra must be a list of objects with a text");
            return;
        }
        fb_buffer_print(out, "\n\n--- %s ---\n\n", name ? json_string_value(name) : "snippet");
        fb_buffer_add(out, json_string_value(text), json_string_length(text));
    }
    fb_buffer_print(out, "%s", out->n > 0 ? "\n" : "");
}

static void add_field(struct fb_fields *f, const char *name, struct fb_buffer *out)
{
    json_t *text = fb_field_text(f, name);
    fb_buffer_add(out, json_string_value(text), json_string_length(text));
}

static bool can_infill(const struct forebay_model *m)
{
    return forebay_model_token(m, FOREBAY_TOKEN_FIM_PREFIX) >= 0 &&
           forebay_model_token(m, FOREBAY_TOKEN_FIM_SUFFIX) >= 0 &&
           forebay_model_token(m, FOREBAY_TOKEN_FIM_MIDDLE) >= 0;
}

void fb_llamacpp_infill(struct fb_request *r)
{
    struct fb_fields f;
    if (!can_infill(r->served->model)) {
        fb_answer_error(r, 501, "infilling is not supported: the model has no tokens for it");
        return;
    }
    struct fb_exchange *x = begin(r, &f);
    if (!x) {
        return;
    }
    struct fb_buffer text = FB_BUFFER_INIT;
    add_extra(&f, &text);
    add_field(&f, "input_prefix", &text);
    add_field(&f, "prompt", &text);
    json_t *before = fb_json_text(text.data, text.n), *after = fb_field_text(&f, "input_suffix");
    if (text.n == 0 && json_string_length(after) == 0) {
        fb_fields_fail(&f, "input_prefix and input_suffix are missing");
    }
    fb_exchange_infill(x, &f, before, after);
    json_decref(before);
    fb_buffer_release(&text);
    fb_exchange_run(x, &f);
}

/* --- Tokens -------------------------------------------------------------------------------- */

/* Parses the body. NULL: the request has been answered. */
static json_t *parse_body(struct fb_request *r, struct fb_fields *f)
{
    json_t *object = fb_fields_parse(f, r->body.data, r->body.n);
    if (!object) {
        fb_answer_error(r, 400, "%s", f->message);
    }
    return object;
}

/* Answers and releases `value`, or reports the failure of the fields. */
static void answer_fields(struct fb_request *r, const struct fb_fields *f, json_t *value)
{
    if (f->bad) {
        json_decref(value);
        fb_answer_fields(r, f);
    } else {
        fb_answer_json(r, 200, value);
    }
}

/* The bytes of a token as text, or as a list where they are no whole characters. */
static json_t *piece_json(const struct forebay_model *m, int32_t token)
{
    char piece[512];
    size_t n = forebay_token_name(m, token, piece, sizeof piece);
    json_t *text = json_stringn(piece, n);
    if (!text) {
        text = json_array();
        for (size_t i = 0; i < n; i++) {
            json_array_append_new(text, json_integer((unsigned char)piece[i]));
        }
    }
    return text;
}

void fb_llamacpp_tokenize(struct fb_request *r)
{
    struct fb_fields f;
    struct forebay_error err;
    const struct forebay_model *m = r->served->model;
    json_t *object = parse_body(r, &f), *list = json_array();
    int32_t *tokens = NULL;
    size_t n = 0;
    if (object) {
        json_t *text = fb_field_text(&f, "content");
        bool add = fb_field_bool(&f, "add_special", false);
        bool names = fb_field_bool(&f, "parse_special", true);
        bool pieces = fb_field_bool(&f, "with_pieces", false);
        if (!f.bad && fb_text_tokens(m, text, add, names, &tokens, &n, &err) != FOREBAY_OK) {
            fb_fields_fail(&f, "%s", err.message);
        }
        for (size_t i = 0; i < n; i++) {
            json_array_append_new(list, pieces ? json_pack("{s:i,s:o}", "id", (int)tokens[i],
                                                     "piece", piece_json(m, tokens[i]))
                                               : json_integer(tokens[i]));
        }
        answer_fields(r, &f, json_pack("{s:O}", "tokens", list));
    }
    free(tokens);
    json_decref(list);
    json_decref(object);
}

void fb_llamacpp_detokenize(struct fb_request *r)
{
    struct fb_fields f;
    const struct forebay_model *m = r->served->model;
    struct fb_buffer text = FB_BUFFER_INIT;
    json_t *object = parse_body(r, &f), *item;
    size_t i;
    if (object) {
        json_array_foreach(fb_field_array(&f, "tokens"), i, item)
        {
            char piece[512];
            json_int_t token = json_integer_value(item);
            if (!json_is_integer(item) || token < 0 || token >= forebay_model_n_vocab(m)) {
                fb_fields_fail(
                    &f, "tokens must be numbers from 0 to %d", forebay_model_n_vocab(m) - 1);
                break;
            }
            fb_buffer_add(&text, piece, forebay_token_name(m, (int32_t)token, piece, sizeof piece));
        }
        answer_fields(r, &f, json_pack("{s:o}", "content", fb_json_text(text.data, text.n)));
    }
    fb_buffer_release(&text);
    json_decref(object);
}

void fb_llamacpp_apply(struct fb_request *r)
{
    struct fb_exchange *x = fb_exchange_new(r, &dialect);
    if (!x) {
        return;
    }
    struct fb_fields f = {.object = x->body};
    json_t *text = NULL;
    x->state = fb_xcalloc(1, sizeof(struct llamacpp_state));
    fb_exchange_render(x, &f, NULL, x->body);
    if (!f.bad) {
        size_t n;
        const char *bytes = forebay_prompt_text(x->prompts[0], &n);
        text = json_pack("{s:o}", "prompt", fb_json_text(bytes, n));
    }
    answer_fields(r, &f, text);
    fb_exchange_free(x);
}

/* --- Properties ---------------------------------------------------------------------------- */

static json_t *token_text(const struct forebay_model *m, enum forebay_token_kind kind)
{
    char piece[512];
    size_t n = forebay_token_name(m, forebay_model_token(m, kind), piece, sizeof piece);
    return fb_json_text(piece, n);
}

void fb_llamacpp_props(struct fb_request *r)
{
    const struct fb_served *s = r->served;
    struct fb_service_stats stats;
    char build[64];
    const char *template = s->chat ? forebay_chat_template(s->chat) : "";
    fb_service_stats(s->service, &stats);
    snprintf(build, sizeof build, "forebay %s", forebay_version());
    fb_answer_json(r, 200,
        json_pack("{s:{s:I,s:{}},s:i,s:s,s:s,s:o,s:o,s:o,s:{s:b,s:b},s:b,s:s}",
            "default_generation_settings", "n_ctx", (json_int_t)forebay_model_ctx(s->model),
            "params", "total_slots", stats.parallel, "model_alias", s->card.name, "model_path",
            s->card.name, "chat_template", fb_json_text(template, strlen(template)), "bos_token",
            token_text(s->model, FOREBAY_TOKEN_BOS), "eos_token",
            token_text(s->model, FOREBAY_TOKEN_EOS), "modalities", "vision", 0, "audio", 0,
            "is_sleeping", 0, "build_info", build));
}
