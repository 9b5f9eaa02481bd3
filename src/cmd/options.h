/*
 * options.h - option tables: one table is both parsed and printed as the help.
 *
 * A command declares its options next to their targets:
 *
 *      struct cmd_option options[] = {
 *          {CMD_GROUP, .help = "Input"},
 *          {CMD_STRING, 'p', "prompt", "TEXT", "text to continue", .target = &prompt},
 *          {CMD_UINT32, 'n', "predict", "N", "tokens to generate", .target = &n, .max = 1e6},
 *          {CMD_NO_FLAG, 0, "no-repack", NULL, "weights as stored", .target = &opt.repack},
 *          {CMD_SIZE, 0, "mem", "SIZE", "memory limit", .target = &opt.mem_bytes},
 *          {CMD_CALL, 0, "tokens", "1,2,3", "prompt as ids", .target = &ids, .parse = parse_ids},
 *          {0}};
 *      const struct cmd_spec spec = {"run", "MODEL [options]", "Does it.", options, 1, 1, NULL};
 *      const char *model;
 *      int rc = cmd_parse(&spec, argc, argv, &model, NULL);
 *      if (rc != CMD_GO_ON) {
 *          return rc;
 *      }
 *
 * The target of an option that is not given is left unchanged. If an option is repeated, the last
 * one wins.
 */
#ifndef FB_CMD_OPTIONS_H
#define FB_CMD_OPTIONS_H

#include "forebay.h"

/* --- Exit codes --------------------------------------------------------------------------- */

enum cmd_exit {
    CMD_OK = 0,
    CMD_FAILED = 1,
    CMD_USAGE = 2,
    CMD_NOFIT = 3,
    CMD_INTERRUPTED = 130, /* Ctrl-C; output written until then is complete */
};

/* The only mapping from status to exit code. */
int cmd_exit_code(enum forebay_status status);

/* Prints `forebay: MESSAGE` and `  hint: HINT` on stderr. Returns cmd_exit_code(err->status). */
int cmd_fail(const struct forebay_error *err);

/* --- Options ------------------------------------------------------------------------------ */

enum cmd_kind {
    CMD_END,     /* ends the table: {0} */
    CMD_GROUP,   /* a heading in the help; only .help is used */
    CMD_FLAG,    /* target: bool *, set to true */
    CMD_NO_FLAG, /* target: bool *, set to false; for names such as "no-repack" */
    CMD_STRING,  /* target: const char **, set to point into argv */
    CMD_INT,     /* target: int * */
    CMD_UINT32,  /* target: uint32_t * */
    CMD_FLOAT,   /* target: float *, finite */
    CMD_SIZE,    /* target: uint64_t *, bytes: "4G", "512MiB", "4096" */
    CMD_RATE,    /* target: uint64_t *, bytes per second: "1.8G", "550MB/s"; powers of 1000 */
    CMD_CALL     /* target: as .parse expects */
};

/* For the help of a CMD_RATE option. */
#define CMD_RATE_HELP                                                                              \
    "bytes per second (1.8G, 550M: powers of 1000, as vendors count; 1GiB: of 1024)"

struct cmd_option {
    enum cmd_kind kind;
    char short_name;  /* 0: none */
    const char *name; /* without dashes; NULL: only a short name */
    const char *arg;  /* placeholder for the value in the help: "N"; NULL for flags */
    const char *help; /* a phrase; the help wraps it, '\n' breaks a line */
    void *target;
    double min, max; /* limits of a number, inclusive; both 0: the range of the type */
    /* CMD_CALL: stores the value and returns NULL, or returns a description of a valid value
     * ("numbers separated by commas"). */
    const char *(*parse)(const char *text, void *target);
};

struct cmd_spec {
    const char *name;     /* "inspect", "synth random" */
    const char *synopsis; /* the rest of the usage line: "MODEL [options]" */
    const char *summary;  /* first paragraph of the help */
    const struct cmd_option *options;
    int min_positional;
    int max_positional;
    const char *details; /* last paragraph of the help, or NULL */
};

/* Returned by cmd_parse when the command should run. No exit code is negative. */
#define CMD_GO_ON (-1)

/* Parses argv[1..]. `--name VALUE`, `--name=VALUE`, `-x VALUE`, `-xVALUE`; `--` ends the options;
 * a lone `-` is positional. Stores positional arguments in `positional` (room for max_positional)
 * and their number in *n_positional (may be NULL). --help and --version print on stdout and return
 * CMD_OK. A mistake is reported with the usage line on stderr, and returns CMD_USAGE. */
int cmd_parse(
    const struct cmd_spec *spec, int argc, char **argv, const char **positional, int *n_positional);

/* Reports a mistake that a table cannot express (`-p` together with `-f`). Returns CMD_USAGE. */
int cmd_usage_error(const struct cmd_spec *spec, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* --- Suggestions -------------------------------------------------------------------------- */

/* The name that a mistyped word was meant to be:
 *      struct cmd_guess guess = cmd_guess_begin(word, length);
 *      cmd_guess_add(&guess, name) for each name; then guess.name is the nearest, or NULL */
struct cmd_guess {
    const char *word;
    size_t length;
    int most; /* a name must not differ in more characters */
    const char *name;
};

struct cmd_guess cmd_guess_begin(const char *word, size_t length);
void cmd_guess_add(struct cmd_guess *guess, const char *name);

/* --- Tables of subcommands ---------------------------------------------------------------- */

struct cmd_entry {
    const char *name; /* NULL ends the table */
    int (*run)(int argc, char **argv);
    const char *summary;
};

/* Runs the entry named argv[1] with argv[1..]. `program` is "forebay" or "forebay synth". Also
 * handles --help, --version, `help` and `help NAME`; anything else returns CMD_USAGE. */
int cmd_dispatch(
    const char *program, const char *intro, const struct cmd_entry *table, int argc, char **argv);

#endif
