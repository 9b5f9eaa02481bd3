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
#include <unistd.h>

#include <jansson.h>

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
        return fb_fail_errno(
            err, FOREBAY_E_IO, failed, "", "cannot read %s", standard ? "standard input" : path);
    }
    *text = buf;
    *length = n;
    return FOREBAY_OK;
}

#define BUILT_IN_PROMPT "Once upon a time"

/* Reads --file, or else standard input, where a shell's `echo TEXT |` ends the text with a newline
 * that is not part of it. */
static enum forebay_status read_prompt(struct generate_options *o, struct forebay_error *err)
{
    bool given = o->prompt || o->file || o->tokens;
    bool piped = !given && o->reads_stdin && files_stdin_is_given();
    if (!given && !o->quiet && o->reads_stdin) {
        fprintf(stderr, piped ? "reading the prompt from standard input ...\n"
                              : "no prompt is given: continuing \"" BUILT_IN_PROMPT "\"\n");
    }
    if (!piped && !o->file) {
        return FOREBAY_OK;
    }
    enum forebay_status status = read_text(piped ? "-" : o->file, &o->text, &o->text_length, err);
    if (status == FOREBAY_OK && piped) {
        o->text_length -= o->text_length > 0 && o->text[o->text_length - 1] == '\n';
    }
    if (status == FOREBAY_OK && o->text_length == 0 && (piped || strcmp(o->file, "-") == 0)) {
        status = fb_fail(err, FOREBAY_E_USAGE, "Give a prompt with -p, -f or --tokens.",
            "the prompt is empty: there is nothing on standard input");
    }
    return status;
}

/* Reads the prompt, and checks that the files to be written can be, and damage no other. */
static enum forebay_status check_files(struct generate_options *o, struct forebay_error *err)
{
    const struct named_file files[] = {{"MODEL", o->model_path, false}, {"--file", o->file, false},
        {"--sidecar", o->model.sidecar, false}, {"--stats", o->stats_path, true},
        {"--trace-out", o->trace_path, true}};
    enum forebay_status status = files_check(files, sizeof files / sizeof files[0], err);
    if (status != FOREBAY_OK) {
        return status;
    }
    return read_prompt(o, err);
}

/* The argument after the model is the prompt. */
static int use_argument(
    const struct cmd_spec *spec, const char *argument, struct generate_options *o)
{
    const char *suffix = strrchr(argument, '.');
    if (strcmp(argument, "-") == 0 && !o->file) {
        o->file = argument;
    } else if (o->prompt || o->file || o->tokens) {
        return cmd_usage_error(spec, "PROMPT, --prompt, --file and --tokens exclude each other");
    } else if (access(argument, F_OK) == 0 || (suffix && strcmp(suffix, ".gguf") == 0)) {
        return cmd_usage_error(spec,
            "'%s' is the name of a file, not a prompt\n  hint: -f FILE continues the text in a "
            "file; "
            "-p TEXT, any text.",
            argument);
    } else {
        o->prompt = argument;
    }
    return CMD_GO_ON;
}

int generate_parse_spec(
    const struct cmd_spec *spec, int argc, char **argv, struct generate_options *o)
{
    struct forebay_error err;
    const char *arguments[2];
    int n;
    int rc = cmd_parse(spec, argc, argv, arguments, &n);
    if (rc == CMD_GO_ON && n > 1) {
        rc = use_argument(spec, arguments[1], o);
    }
    if (rc == CMD_GO_ON && (o->prompt != NULL) + (o->file != NULL) + (o->tokens != NULL) > 1) {
        rc = cmd_usage_error(spec, "--prompt, --file and --tokens exclude each other");
    }
    if (rc == CMD_GO_ON && o->chat && o->tokens) {
        rc = cmd_usage_error(spec, "--chat and --tokens exclude each other");
    }
    if (rc != CMD_GO_ON) {
        generate_release(o);
        return rc;
    }
    o->model_path = arguments[0];
    if (o->verbose) {
        forebay_log_set_level(FOREBAY_LOG_DEBUG);
    }
    if (check_files(o, &err) != FOREBAY_OK) {
        generate_release(o);
        return cmd_fail(&err);
    }
    return CMD_GO_ON;
}

int generate_parse(const char *name, const char *summary, const struct cmd_option own[3], int argc,
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
        own[0], own[1], own[2], {0}};
    const struct cmd_spec spec = {name, "MODEL [PROMPT] [options]", summary, options, 1, 2, NULL};
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

/* The text as a user's message, rendered by the model's chat template. */
static enum forebay_status render(const struct forebay_model *model, const char *text,
    size_t length, int32_t **tokens, size_t *n, struct forebay_error *err)
{
    struct forebay_chat *chat = NULL;
    struct forebay_prompt *prompt = NULL;
    json_t *content = memchr(text, 0, length) ? NULL : json_stringn(text, length);
    if (!content) {
        return fb_fail(
            err, FOREBAY_E_USAGE, "", "the prompt is not valid UTF-8, or contains a NUL");
    }
    json_t *request = json_pack("{s:[{s:s, s:o}]}", "messages", "role", "user", "content", content);
    char *body = json_dumps(request, JSON_COMPACT);
    enum forebay_status status = forebay_chat_new(model, NULL, &chat, err);
    if (status == FOREBAY_OK) {
        status = forebay_chat_render(chat, body, strlen(body), NULL, NULL, &prompt, err);
    }
    if (status == FOREBAY_OK) {
        const int32_t *list = forebay_prompt_tokens(prompt, n);
        *tokens = fb_xmalloc((*n + 1) * sizeof **tokens);
        memcpy(*tokens, list, *n * sizeof **tokens);
    }
    forebay_prompt_free(prompt);
    forebay_chat_free(chat);
    free(body);
    json_decref(request);
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
    } else {
        const char *text = o->text ? o->text : o->prompt ? o->prompt : BUILT_IN_PROMPT;
        size_t length = o->text ? o->text_length : strlen(text);
        status = (o->chat ? render : tokenize)(model, text, length, &list, &count, err);
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
