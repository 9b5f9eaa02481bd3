/* generate.h - the options that run, verify and bench share, and the prompt that they describe. */
#ifndef FB_CMD_GENERATE_H
#define FB_CMD_GENERATE_H

#include "cmd/options.h"
#include "forebay.h"

/* Fill with generate_options_init, then generate_parse; free with generate_release. Without a
 * prompt, a file or tokens, the prompt is standard input (`reads_stdin`), else a built-in text. */
struct generate_options {
    const char *model_path;
    const char *prompt; /* -p, or the second argument */
    const char *file;   /* -f; "-": stdin */
    char *text;         /* contents of `file` or stdin, NULL if neither was read; owned */
    size_t text_length;
    int32_t *tokens; /* --tokens; owned */
    size_t n_tokens;
    uint32_t n_predict;
    bool ignore_eos;
    bool reads_stdin; /* a pipe or file on standard input is the prompt if no other is given */
    bool chat;        /* run only: the prompt is a message, in the model's chat template */
    bool ids;         /* run only */
    bool quiet;
    bool verbose;
    const char *stats_path;
    const char *trace_path; /* run only */
    uint32_t parallel;      /* verify only */
    struct forebay_model_options model;
    struct forebay_sampling sampling;
};

/* clang-format off */
/* Rows for an option table. o: struct generate_options * */
#define GENERATE_INPUT_OPTIONS(o) \
    {CMD_GROUP, .help = "Input (at most one, or PROMPT; default: a built-in text)"}, \
    {CMD_STRING, 'p', "prompt", "TEXT", "text to continue", .target = &(o)->prompt}, \
    {CMD_STRING, 'f', "file", "FILE", \
        "file with the text to continue, byte for byte; - is standard input", \
        .target = &(o)->file}, \
    {CMD_CALL, 0, "tokens", "IDS", "token ids to continue: 1,2,3", .target = (o), \
        .parse = generate_parse_tokens}
/* clang-format on */
const char *generate_parse_tokens(const char *text, void *target);

void generate_options_init(struct generate_options *options, uint32_t n_predict);

/* Parses the command line of `name` ("run" or "verify"), which adds up to three rows of its own,
 * and checks that its files can be read and written, so that mistakes surface before the model is
 * loaded.
 * The fields of `options` are the defaults. Returns CMD_GO_ON or the exit code. */
int generate_parse(const char *name, const char *summary, const struct cmd_option own[3], int argc,
    char **argv, struct generate_options *options);
/* The same for a command with its own option table. */
int generate_parse_spec(
    const struct cmd_spec *spec, int argc, char **argv, struct generate_options *options);
void generate_release(struct generate_options *options);

/* The prompt as tokens: those given, or the text tokenized. The caller frees *tokens. E_USAGE if it
 * is empty. */
enum forebay_status generate_input(const struct generate_options *options,
    const struct forebay_model *model, int32_t **tokens, size_t *n, struct forebay_error *err);

#endif
