/*
 * generate.c - the command line and the prompt of run, verify and bench.
 *
 *      command line --generate_parse--> options, contents of --file --generate_input--> tokens
 *
 * Loading a large model takes minutes, so files are read, or checked for writing, while parsing.
 */
#include "cmd/generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/files.h"
#include "cmd/shared_options.h"

/* --- Options ------------------------------------------------------------------------------- */

const char *generate_parse_tokens(const char *text, void *target)
{
    static const char expected[] = "token ids separated by commas, such as 1,2,3";
    struct generate_options *o = target;
    size_t n = 0, cap = 0;
    int32_t *tokens = NULL;
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || (*end && *end != ',')) {
            free(tokens);
            return expected;
        }
        if (n == cap) {
            cap = cap ? 2 * cap : 64;
            tokens = fb_xrealloc(tokens, cap * sizeof *tokens);
        }
        tokens[n++] = (int32_t)id;
        if (!*end) {
            break;
        }
        at = end;
    }
    free(o->tokens);
    o->tokens = tokens;
    o->n_tokens = n;
    return NULL;
}

static enum forebay_status read_text(
    const char *path, char **text, size_t *length, struct forebay_error *err)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "rb");
    if (!f) {
        return fb_fail_errno(
            err, FOREBAY_E_IO, errno, "Check the path given with --file.", "cannot open %s", path);
    }
    char *buf = NULL;
    size_t n = 0, cap = 0, got;
    do {
        if (n == cap) {
            cap = cap ? 2 * cap : 1 << 16;
            buf = fb_xrealloc(buf, cap);
        }
        got = fread(buf + n, 1, cap - n, f);
        n += got;
    } while (got > 0);
    int failed = ferror(f) ? errno : 0;
    if (!standard) {
        fclose(f);
    }
    if (failed) {
        free(buf);
        return fb_fail_errno(err, FOREBAY_E_IO, failed, "", "cannot read %s", path);
    }
    *text = buf;
    *length = n;
    return FOREBAY_OK;
}

/* Reads --file, and checks that the files to be written can be, and damage no other. */
static enum forebay_status check_files(struct generate_options *o, struct forebay_error *err)
{
    const struct named_file files[] = {{"MODEL", o->model_path, false}, {"--file", o->file, false},
        {"--sidecar", o->model.sidecar, false}, {"--stats", o->stats_path, true},
        {"--trace-out", o->trace_path, true}};
    enum forebay_status status = files_check(files, sizeof files / sizeof files[0], err);
    if (status != FOREBAY_OK) {
        return status;
    }
    return o->file ? read_text(o->file, &o->text, &o->text_length, err) : FOREBAY_OK;
}

int generate_parse_spec(
    const struct cmd_spec *spec, int argc, char **argv, struct generate_options *o)
{
    struct forebay_error err;
    int rc = cmd_parse(spec, argc, argv, &o->model_path, NULL);
    if (rc == CMD_GO_ON && (o->prompt != NULL) + (o->file != NULL) + (o->tokens != NULL) > 1) {
        rc = cmd_usage_error(spec, "--prompt, --file and --tokens exclude each other");
    }
    if (rc != CMD_GO_ON) {
        return rc;
    }
    if (o->verbose) {
        forebay_log_set_level(FOREBAY_LOG_DEBUG);
    }
    if (check_files(o, &err) != FOREBAY_OK) {
        generate_release(o);
        return cmd_fail(&err);
    }
    return CMD_GO_ON;
}

int generate_parse(const char *name, const char *summary, const struct cmd_option own[2], int argc,
    char **argv, struct generate_options *o)
{
    char n_help[64];
    snprintf(n_help, sizeof n_help, "number of tokens to generate (default %u)", o->n_predict);
    struct cmd_option options[] = {GENERATE_INPUT_OPTIONS(o), {CMD_GROUP, .help = "Generation"},
        {CMD_UINT32, 'n', "predict", "N", n_help, .target = &o->n_predict, .min = 0, .max = 1e9},
        {CMD_FLAG, 0, "ignore-eos", NULL, "continue after an end-of-text token",
            .target = &o->ignore_eos},
        CMD_SAMPLING_OPTIONS(&o->sampling,
            "temperature; 0 (the default): always the likeliest token", "random seed (default 0)"),
        CMD_MODEL_OPTIONS(&o->model), {CMD_GROUP, .help = "Output"},
        {CMD_STRING, 0, "stats", "FILE", "write the statistics of the run as JSON (docs/STATS.md)",
            .target = &o->stats_path},
        {CMD_FLAG, 'q', "quiet", NULL, "print no progress and no statistics", .target = &o->quiet},
        {CMD_FLAG, 'v', "verbose", NULL, "print llama.cpp's messages, too", .target = &o->verbose},
        own[0], own[1], {0}};
    const struct cmd_spec spec = {name, "MODEL [options]", summary, options, 1, 1, NULL};
    return generate_parse_spec(&spec, argc, argv, o);
}

void generate_options_init(struct generate_options *o, uint32_t n_predict)
{
    *o = (struct generate_options){.n_predict = n_predict};
    forebay_model_options_init(&o->model);
    forebay_sampling_init(&o->sampling);
}

void generate_release(struct generate_options *o)
{
    free(o->tokens);
    free(o->text);
}

/* --- Input --------------------------------------------------------------------------------- */

static enum forebay_status tokenize(const struct forebay_model *model, const char *text,
    size_t length, int32_t **tokens, size_t *n, struct forebay_error *err)
{
    size_t needed;
    enum forebay_status status = forebay_tokenize(model, text, length, true, NULL, 0, &needed, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    *tokens = fb_xmalloc((needed + 1) * sizeof **tokens);
    status = forebay_tokenize(model, text, length, true, *tokens, needed, n, err);
    if (status != FOREBAY_OK) {
        free(*tokens);
    }
    return status;
}

enum forebay_status generate_input(const struct generate_options *o,
    const struct forebay_model *model, int32_t **tokens, size_t *n, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    int32_t *list = NULL;
    size_t count = 0;
    if (o->tokens) {
        count = o->n_tokens;
        list = fb_xmalloc(count * sizeof *list);
        memcpy(list, o->tokens, count * sizeof *list);
    } else if (o->file) {
        status = tokenize(model, o->text, o->text_length, &list, &count, err);
    } else {
        const char *text = o->prompt ? o->prompt : "Once upon a time";
        status = tokenize(model, text, strlen(text), &list, &count, err);
    }
    if (status == FOREBAY_OK && count == 0) {
        free(list);
        status = fb_fail(
            err, FOREBAY_E_USAGE, "Give a prompt with -p, -f or --tokens.", "the prompt is empty");
    }
    if (status == FOREBAY_OK) {
        *tokens = list;
        *n = count;
    }
    return status;
}
