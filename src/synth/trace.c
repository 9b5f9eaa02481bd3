/* trace.c - reads routing traces. Nothing in the file is believed before it is checked. */
#include "synth/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "synth/shape.h"

#define HINT_HEADER                                                                                \
    "The first line should be like {\"n_layer\": 48, \"n_expert\": 128, \"top_k\": 8}."
#define HINT_TOKEN                                                                                 \
    "Each line should be like {\"phase\": \"decode\", \"layers\": [[experts of layer 0], ...]}."

struct reader {
    const char *path;
    int line;
    struct st_trace *trace;
    int file_layers; /* of which trace->n_layer are wanted; 0: header not read yet */
    int wanted_layers;
    int capacity; /* tokens */
    struct strata_error *err;
};

static enum strata_status bad(const struct reader *r, const char *hint, const char *what)
{
    return st_fail(r->err, STRATA_E_FORMAT, hint, "%s: line %d: %s", r->path, r->line, what);
}

const uint16_t *st_trace_route(const struct st_trace *trace, int token, int layer)
{
    return trace->experts +
           ((size_t)token * (size_t)trace->n_layer + (size_t)layer) * (size_t)trace->top_k;
}

/* --- Lines -------------------------------------------------------------------------------- */

static bool read_number(const json_t *object, const char *key, int high, int *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;
    *out = n >= 1 && n <= high ? (int)n : 0;
    return *out > 0;
}

static enum strata_status read_header(struct reader *r, const json_t *line)
{
    struct st_trace *t = r->trace;
    if (!read_number(line, "n_layer", ST_MAX_LAYERS, &r->file_layers)) {
        return bad(r, HINT_HEADER, "no usable \"n_layer\"");
    }
    if (r->wanted_layers > r->file_layers) {
        return st_fail(r->err, STRATA_E_USAGE, "", "%s has %d layers, not %d", r->path,
            r->file_layers, r->wanted_layers);
    }
    t->n_layer = r->wanted_layers ? r->wanted_layers : r->file_layers;
    if (!read_number(line, "n_expert", ST_MAX_EXPERTS, &t->n_expert)) {
        return bad(r, HINT_HEADER, "no usable \"n_expert\"");
    }
    if (!read_number(line, "top_k", t->n_expert, &t->top_k)) {
        return bad(r, HINT_HEADER, "no usable \"top_k\"");
    }
    const char *model = json_string_value(json_object_get(line, "model"));
    snprintf(t->model, sizeof t->model, "%s", model ? model : "unnamed");
    return STRATA_OK;
}

static enum strata_status read_route(struct reader *r, const json_t *list, uint16_t *out)
{
    const struct st_trace *t = r->trace;
    if (!json_is_array(list) || json_array_size(list) != (size_t)t->top_k) {
        return bad(r, HINT_TOKEN, "a layer does not have top_k experts");
    }
    for (int k = 0; k < t->top_k; k++) {
        const json_t *value = json_array_get(list, (size_t)k);
        json_int_t e = json_is_integer(value) ? json_integer_value(value) : -1;
        if (e < 0 || e >= t->n_expert) {
            return bad(r, HINT_TOKEN, "an expert is not a number below n_expert");
        }
        for (int j = 0; j < k; j++) {
            if (out[j] == e) {
                return bad(r, HINT_TOKEN, "an expert appears twice in a layer");
            }
        }
        out[k] = (uint16_t)e;
    }
    return STRATA_OK;
}

static uint16_t *room_for_token(struct reader *r)
{
    struct st_trace *t = r->trace;
    size_t per_token = (size_t)t->n_layer * (size_t)t->top_k;
    if (t->n_tokens == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 256;
        t->experts = st_xrealloc(t->experts, (size_t)r->capacity * per_token * sizeof *t->experts);
    }
    return t->experts + (size_t)t->n_tokens * per_token;
}

static enum strata_status read_token(struct reader *r, const json_t *line)
{
    struct st_trace *t = r->trace;
    const char *phase = json_string_value(json_object_get(line, "phase"));
    if (!phase || (strcmp(phase, "decode") != 0 && strcmp(phase, "prefill") != 0)) {
        return bad(r, HINT_TOKEN, "\"phase\" is neither \"decode\" nor \"prefill\"");
    }
    if (strcmp(phase, "prefill") == 0) {
        return STRATA_OK;
    }
    const json_t *layers = json_object_get(line, "layers");
    if (!json_is_array(layers) || json_array_size(layers) != (size_t)r->file_layers) {
        return bad(r, HINT_TOKEN, "\"layers\" does not have n_layer lists");
    }
    uint16_t *out = room_for_token(r);
    for (int l = 0; l < t->n_layer; l++, out += t->top_k) {
        enum strata_status status = read_route(r, json_array_get(layers, (size_t)l), out);
        if (status) {
            return status;
        }
    }
    t->n_tokens++;
    return STRATA_OK;
}

static enum strata_status read_line(struct reader *r, const char *text, size_t length)
{
    json_error_t json_error;
    json_t *line = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    enum strata_status status;
    if (!line) {
        char what[sizeof json_error.text + 16];
        snprintf(what, sizeof what, "not JSON: %s", json_error.text);
        status = bad(r, "A trace has one JSON object per line.", what);
    } else if (!json_is_object(line)) {
        status = bad(r, "A trace has one JSON object per line.", "not a JSON object");
    } else {
        status = r->file_layers == 0 ? read_header(r, line) : read_token(r, line);
    }
    json_decref(line);
    return status;
}

/* --- The file ----------------------------------------------------------------------------- */

static enum strata_status read_lines(struct reader *r, FILE *file, int max_tokens)
{
    char *text = NULL;
    size_t capacity = 0;
    ssize_t length;
    enum strata_status status = STRATA_OK;
    errno = 0;
    while (!status && (length = getline(&text, &capacity, file)) >= 0) {
        r->line++;
        bool blank = strspn(text, " \t\r\n") == (size_t)length;
        status = blank ? STRATA_OK : read_line(r, text, (size_t)length);
        if (max_tokens > 0 && r->trace->n_tokens >= max_tokens) {
            break;
        }
    }
    if (!status && ferror(file)) {
        status = st_fail_errno(r->err, STRATA_E_IO, errno, "", "cannot read %s", r->path);
    }
    free(text);
    return status;
}

enum strata_status st_trace_read(
    const char *path, int layers, int tokens, struct st_trace *out, struct strata_error *err)
{
    struct st_trace trace = {0};
    struct reader r = {.path = path, .trace = &trace, .wanted_layers = layers, .err = err};
    FILE *file = fopen(path, "r");
    if (!file) {
        return st_fail_errno(err, STRATA_E_IO, errno, "Is the path right?", "cannot open %s", path);
    }
    enum strata_status status = read_lines(&r, file, tokens);
    fclose(file);
    if (!status && trace.n_tokens == 0) {
        status = st_fail(err, STRATA_E_FORMAT, HINT_TOKEN, "%s: no decode token", path);
    }
    if (status) {
        st_trace_release(&trace);
    } else {
        *out = trace;
    }
    return status;
}

void st_trace_release(struct st_trace *trace)
{
    free(trace->experts);
    memset(trace, 0, sizeof *trace);
}
