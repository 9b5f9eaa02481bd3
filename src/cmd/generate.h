/* generate.h - the options that run, verify and bench share: model, input, generation. */
#ifndef FB_CMD_GENERATE_H
#define FB_CMD_GENERATE_H

#include "cmd/cmd.h"
#include "forebay.h"

struct generate_options {
    const char *model_path;
    const char *prompt; /* -p */
    const char *file;   /* -f; "-": stdin */
    char *text;         /* what is in it; owned */
    size_t text_length;
    int32_t *tokens; /* --tokens; owned */
    size_t n_tokens;
    uint32_t n_predict;
    bool ignore_eos;
    bool ids; /* run only */
    bool quiet;
    bool verbose;
    const char *stats_path;
    const char *trace_path; /* run only */
    uint32_t parallel;      /* verify only */
    struct forebay_model_options model;
    struct forebay_sampling sampling;
};

/* clang-format off */
/* Rows for a table of options. o: struct generate_options * */
#define GENERATE_INPUT_OPTIONS(o) \
    {CMD_GROUP, .help = "Input (one of; default: a built-in text)"}, \
    {CMD_STRING, 'p', "prompt", "TEXT", "text to continue", .target = &(o)->prompt}, \
    {CMD_STRING, 'f', "file", "FILE", "text to continue, from a file; - is standard input", \
        .target = &(o)->file}, \
    {CMD_CALL, 0, "tokens", "IDS", "token ids to continue: 1,2,3", .target = (o), \
        .parse = generate_parse_tokens}
/* clang-format on */
const char *generate_parse_tokens(const char *text, void *target);

void generate_options_init(struct generate_options *options, uint32_t n_predict);

/* Parses the command line of `name` ("run" or "verify"), which has two rows of its own, and finds out
 * before a model is loaded whether its files can be read and written. `options` has been initialised.
 * CMD_GO_ON, or the exit code. */
int generate_parse(const char *name, const char *summary, const struct cmd_option own[2], int argc,
    char **argv, struct generate_options *options);
/* The same for a command with a table of its own. */
int generate_parse_spec(
    const struct cmd_spec *spec, int argc, char **argv, struct generate_options *options);
void generate_release(struct generate_options *options);

/* The input as tokens of the model: those given, or the text tokenized. The caller frees *tokens. */
enum forebay_status generate_input(const struct generate_options *options,
    const struct forebay_model *model, int32_t **tokens, size_t *n, struct forebay_error *err);

/* A line that is redrawn on stderr while something long goes on; one line per phase when stderr is
 * no terminal, nothing when `quiet`. Signature of forebay_progress; `user` is a struct progress_line. */
struct progress_line {
    bool enabled;
    bool terminal;
    const char *what;
    int percent;
};
void progress_init(struct progress_line *line, bool quiet);
bool progress_report(const char *what, uint64_t done, uint64_t total, void *user);
void progress_end(struct progress_line *line);

/* Writes the figures as JSON. */
enum forebay_status stats_write(
    const char *path, const struct forebay_stats *stats, struct forebay_error *err);
/* ... and in words, on stderr. */
void stats_print(const struct forebay_stats *stats, const struct forebay_placement *placement);

#endif
