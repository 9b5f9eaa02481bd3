/*
 * trace.c - reads and writes routing traces (format: trace.h).
 *
 * A file is read line by line, so that a message can give the line number. Everything in it is
 * checked before it is used: numbers against the header, the header against llama.cpp's limits.
 */
#include "model/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "model/limits.h"

#define HINT_HEADER                                                                                \
    "The first line should be like {\"n_layer\": 48, \"n_expert\": 128, \"top_k\": 8}."
#define HINT_TOKEN                                                                                 \
    "Each line should be like {\"phase\": \"decode\", \"layers\": [[experts of layer 0], ...]}."

/* More than the longest possible line: all experts of all layers. */
#define MAX_LINE   (8u << 20)
#define MAX_TOKENS (1 << 24)
#define NO_ROUTE   UINT16_MAX /* in place of the first expert: the layer has none */

struct trace_reader {
    const char *path;
    int line;
    struct fb_trace *trace;
    const struct fb_trace_part *part;
    int file_layers; /* in the file; trace->n_layer of them are wanted. 0: header not read yet */
    int capacity;    /* tokens */
    json_int_t pass; /* of the previous token; -1: none given, or not a prefill token */
    struct forebay_error *err;
};

static enum forebay_status bad(const struct trace_reader *r, const char *hint, const char *what)
{
    return fb_fail(r->err, FOREBAY_E_FORMAT, hint, "%s: line %d: %s", r->path, r->line, what);
}

const uint16_t *fb_trace_route(const struct fb_trace *trace, int token, int layer)
{
    size_t row = (size_t)token * (size_t)trace->n_layer + (size_t)layer;
    const uint16_t *route = trace->experts + row * (size_t)trace->top_k;
    return *route == NO_ROUTE ? NULL : route;
}

/* --- Lines -------------------------------------------------------------------------------- */

static bool read_number(const json_t *object, const char *key, int high, int *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;
    *out = n >= 1 && n <= high ? (int)n : 0;
    return *out > 0;
}

/* Copies a name without control characters, which could control a terminal. */
static void copy_name(const char *name, char *out, size_t cap)
{
    snprintf(out, cap, "%s", name);
    for (unsigned char *u = (unsigned char *)out; *u; u++) {
        if (*u == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0) {
            *u++ = '?';
            *u = '?';
        } else if (*u < 0x20 || *u == 0x7f) {
            *u = '?';
        }
    }
}

static enum forebay_status read_header(struct trace_reader *r, const json_t *line)
{
    struct fb_trace *t = r->trace;
    if (!read_number(line, "n_layer", FB_MAX_LAYERS, &r->file_layers)) {
        return bad(r, HINT_HEADER, "no usable \"n_layer\"");
    }
    if (r->part->layers > r->file_layers) {
        return fb_fail(r->err, FOREBAY_E_USAGE, "", "%s has %d layers, not %d", r->path,
            r->file_layers, r->part->layers);
    }
    t->n_layer = r->part->layers ? r->part->layers : r->file_layers;
    if (!read_number(line, "n_expert", FB_MAX_EXPERTS, &t->n_expert)) {
        return bad(r, HINT_HEADER, "no usable \"n_expert\"");
    }
    if (!read_number(line, "top_k", t->n_expert, &t->top_k)) {
        return bad(r, HINT_HEADER, "no usable \"top_k\"");
    }
    const char *model = json_string_value(json_object_get(line, "model"));
    copy_name(model ? model : "unnamed", t->model, sizeof t->model);
    return FOREBAY_OK;
}

static enum forebay_status read_route(struct trace_reader *r, const json_t *list, uint16_t *out)
{
    const struct fb_trace *t = r->trace;
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
    return FOREBAY_OK;
}

/* Makes room for one token in all arrays; returns its routes. NULL when there are too many. */
static uint16_t *room_for_token(struct trace_reader *r)
{
    struct fb_trace *t = r->trace;
    size_t per_token = (size_t)t->n_layer * (size_t)t->top_k;
    if (t->n_tokens == r->capacity) {
        if (r->capacity == MAX_TOKENS) {
            return NULL;
        }
        r->capacity = r->capacity ? 2 * r->capacity : 256;
        size_t n = (size_t)r->capacity;
        t->experts = fb_xrealloc(t->experts, n * per_token * sizeof *t->experts);
        t->batch = fb_xrealloc(t->batch, n * sizeof *t->batch);
        t->prefill = fb_xrealloc(t->prefill, n * sizeof *t->prefill);
    }
    return t->experts + (size_t)t->n_tokens * per_token;
}

/* Completes the token whose routes have been read. */
static void add_token(struct trace_reader *r, const json_t *line, bool prefill)
{
    struct fb_trace *t = r->trace;
    const json_t *value = json_object_get(line, "pass");
    json_int_t pass = prefill && json_is_integer(value) ? json_integer_value(value) : -1;
    int last = t->n_tokens > 0 ? t->batch[t->n_tokens - 1] : -1;
    t->batch[t->n_tokens] = pass >= 0 && pass == r->pass ? last : last + 1;
    t->prefill[t->n_tokens] = prefill;
    t->n_prefill += prefill;
    t->n_tokens++;
    r->pass = pass;
}

static enum forebay_status read_token(struct trace_reader *r, const json_t *line)
{
    struct fb_trace *t = r->trace;
    const char *phase = json_string_value(json_object_get(line, "phase"));
    if (!phase || (strcmp(phase, "decode") != 0 && strcmp(phase, "prefill") != 0)) {
        return bad(r, HINT_TOKEN, "\"phase\" is neither \"decode\" nor \"prefill\"");
    }
    bool prefill = strcmp(phase, "prefill") == 0;
    if (prefill && !r->part->prefill) {
        return FOREBAY_OK;
    }
    const json_t *layers = json_object_get(line, "layers");
    if (!json_is_array(layers) || json_array_size(layers) != (size_t)r->file_layers) {
        return bad(r, HINT_TOKEN, "\"layers\" does not have n_layer lists");
    }
    uint16_t *out = room_for_token(r);
    if (!out) {
        return bad(r, "Read only a part of it.", "too many tokens");
    }
    for (int l = 0; l < t->n_layer; l++, out += t->top_k) {
        const json_t *route = json_array_get(layers, (size_t)l);
        if (prefill && json_is_array(route) && json_array_size(route) == 0) {
            *out = NO_ROUTE;
            continue;
        }
        enum forebay_status status = read_route(r, route, out);
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    add_token(r, line, prefill);
    return FOREBAY_OK;
}

static enum forebay_status read_line(struct trace_reader *r, const char *text, size_t length)
{
    json_error_t json_error;
    json_t *line = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    enum forebay_status status;
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

/* Reads a line without its newline into *text. False at the end of the file, and on an error, which
 * sets *status. */
static bool next_line(
    struct trace_reader *r, FILE *file, char **text, size_t *length, enum forebay_status *status)
{
    static const size_t step = 1 << 16;
    size_t n = 0;
    int c = 0;
    errno = 0;
    while ((c = getc(file)) != EOF && c != '\n') {
        if (n % step == 0) {
            if (n == MAX_LINE) {
                *status = bad(r, "A trace has one JSON object per line.", "the line has no end");
                return false;
            }
            *text = fb_xrealloc(*text, n + step);
        }
        (*text)[n++] = (char)c;
    }
    if (ferror(file)) {
        *status = fb_fail_errno(r->err, FOREBAY_E_IO, errno, "", "cannot read %s", r->path);
        return false;
    }
    *length = n;
    return c != EOF || n > 0;
}

static bool is_blank(const char *text, size_t length)
{
    while (length > 0 && strchr(" \t\r", text[length - 1]) && text[length - 1]) {
        length--;
    }
    return length == 0;
}

static enum forebay_status read_lines(struct trace_reader *r, FILE *file)
{
    char *text = NULL;
    size_t length;
    const struct fb_trace *t = r->trace;
    enum forebay_status status = FOREBAY_OK;
    for (r->line = 1; status == FOREBAY_OK && next_line(r, file, &text, &length, &status);
         r->line++) {
        status = is_blank(text, length) ? FOREBAY_OK : read_line(r, text, length);
        if (r->part->tokens > 0 && t->n_tokens - t->n_prefill >= r->part->tokens) {
            break;
        }
    }
    free(text);
    return status;
}

enum forebay_status fb_trace_read(const char *path, const struct fb_trace_part *part,
    struct fb_trace *out, struct forebay_error *err)
{
    struct fb_trace trace = {0};
    struct trace_reader r = {.path = path, .trace = &trace, .part = part, .pass = -1, .err = err};
    FILE *file = fopen(path, "r");
    if (!file) {
        return fb_fail_errno(err, FOREBAY_E_IO, errno, "Check the path.", "cannot open %s", path);
    }
    enum forebay_status status = read_lines(&r, file);
    fclose(file);
    if (status == FOREBAY_OK && r.file_layers == 0) {
        status = fb_fail(err, FOREBAY_E_FORMAT, HINT_HEADER, "%s is empty", path);
    } else if (status == FOREBAY_OK && trace.n_tokens == 0) {
        status = fb_fail(err, FOREBAY_E_FORMAT, HINT_TOKEN, "%s: no %stoken", path,
            part->prefill ? "" : "decode ");
    }
    if (status != FOREBAY_OK) {
        fb_trace_release(&trace);
    } else {
        *out = trace;
    }
    return status;
}

void fb_trace_release(struct fb_trace *trace)
{
    free(trace->experts);
    free(trace->batch);
    free(trace->prefill);
    memset(trace, 0, sizeof *trace);
}

/* --- Writing ------------------------------------------------------------------------------ */

void fb_trace_write_header(FILE *file, const char *model, int n_layer, int n_expert, int top_k)
{
    json_t *header = json_object();
    json_t *name = json_string(model);
    json_object_set_new(header, "model", name ? name : json_string("unnamed")); /* not UTF-8 */
    json_object_set_new(header, "n_layer", json_integer(n_layer));
    json_object_set_new(header, "n_expert", json_integer(n_expert));
    json_object_set_new(header, "top_k", json_integer(top_k));
    json_object_set_new(header, "source", json_string("forebay run --trace-out"));
    json_dumpf(header, file, JSON_PRESERVE_ORDER);
    json_decref(header);
    putc('\n', file);
}

void fb_trace_write_token(FILE *file, int32_t token, bool prefill, uint64_t pass,
    const int32_t *const *layers, int n_layer, int top_k)
{
    fprintf(file, "{\"tok\":%d,\"phase\":\"%s\",\"seq\":0,\"pass\":%llu,\"layers\":[", token,
        prefill ? "prefill" : "decode", (unsigned long long)pass);
    for (int l = 0; l < n_layer; l++) {
        fprintf(file, l ? ",[" : "[");
        for (int k = 0; layers[l] && k < top_k; k++) {
            fprintf(file, k ? ",%d" : "%d", layers[l][k]);
        }
        putc(']', file);
    }
    fprintf(file, "]}\n");
}
