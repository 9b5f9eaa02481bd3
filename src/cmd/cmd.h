/*
 * cmd.h - what the subcommands share: one table of options that is parsed and printed as help.
 *
 * A subcommand is `int cmd_NAME(int argc, char **argv)` in its own file; argv[0] is its name, and
 * what it returns is the exit code. It declares its options next to their targets and says
 *
 *      struct cmd_option options[] = {
 *          {CMD_GROUP, .help = "Input"},
 *          {CMD_STRING, 'p', "prompt", "TEXT", "text to continue", .target = &prompt},
 *          {CMD_UINT32, 'n', "predict", "N", "tokens to generate", .target = &n, .max = 1e6},
 *          {CMD_NO_FLAG, 0, "no-repack", NULL, "weights as stored", .target = &opt.repack},
 *          {CMD_SIZE, 0, "mem", "SIZE", "what the process may hold", .target = &opt.mem_bytes},
 *          {CMD_CALL, 0, "tokens", "1,2,3", "prompt as ids", .target = &ids, .parse = parse_ids},
 *          {0}};
 *      const struct cmd_spec spec = {"run", "MODEL [options]", "Does it.", options, 1, 1, NULL};
 *      const char *model;
 *      int rc = cmd_parse(&spec, argc, argv, &model, NULL);
 *      if (rc != CMD_GO_ON) {
 *          return rc;
 *      }
 *
 * Targets keep the value they had when their option is not given; the last of several wins.
 */
#ifndef FB_CMD_CMD_H
#define FB_CMD_CMD_H

#include "forebay.h"

/* --- Exit codes --------------------------------------------------------------------------- */

enum cmd_exit {
    CMD_OK = 0,
    CMD_FAILED = 1,
    CMD_USAGE = 2,
    CMD_NOFIT = 3,
    CMD_INTERRUPTED = 130, /* Ctrl-C: what was done until then is complete */
};

/* The one place where a status becomes an exit code. */
int cmd_exit_code(enum forebay_status status);

/* Prints `forebay: MESSAGE` and `  hint: HINT` on stderr. Returns cmd_exit_code(err->status). */
int cmd_fail(const struct forebay_error *err);

/* --- Options ------------------------------------------------------------------------------ */

enum cmd_kind {
    CMD_END,     /* ends the table: {0} */
    CMD_GROUP,   /* a heading in the help: only .help is used */
    CMD_FLAG,    /* target: bool *, set to true */
    CMD_NO_FLAG, /* target: bool *, set to false; the name says so: "no-repack" */
    CMD_STRING,  /* target: const char **, points into argv */
    CMD_INT,     /* target: int * */
    CMD_UINT32,  /* target: uint32_t * */
    CMD_FLOAT,   /* target: float *, finite */
    CMD_SIZE,    /* target: uint64_t *, bytes: "4G", "512MiB", "4096" */
    CMD_CALL     /* target: whatever .parse fills */
};

struct cmd_option {
    enum cmd_kind kind;
    char short_name;  /* 0: none */
    const char *name; /* without dashes; NULL: only a short name */
    const char *arg;  /* how the help calls the value: "N"; NULL for flags */
    const char *help; /* a phrase, wrapped by the help; '\n' breaks a line */
    void *target;
    double min, max; /* limits of a number, inclusive; both 0: what the type holds */
    /* CMD_CALL: NULL when `text` is fine, else what is expected ("numbers joined by commas"). */
    const char *(*parse)(const char *text, void *target);
};

struct cmd_spec {
    const char *name;     /* "inspect", "synth random" */
    const char *synopsis; /* what follows the name in the usage line: "MODEL [options]" */
    const char *summary;  /* what it does: the first lines of the help */
    const struct cmd_option *options;
    int min_positional;
    int max_positional;
    const char *details; /* text after the options, or NULL */
};

/* cmd_parse's answer when the command should run. No exit code is negative. */
#define CMD_GO_ON (-1)

/* Parses argv[1..]. `--name VALUE`, `--name=VALUE`, `-x VALUE`, `-xVALUE`; `--` ends the options;
 * a lone `-` is positional. Positionals go to `positional` (room for max_positional) and their
 * number to *n_positional (may be NULL). --help and --version print on stdout and return CMD_OK;
 * a mistake prints itself and the usage line on stderr and returns CMD_USAGE. */
int cmd_parse(
    const struct cmd_spec *spec, int argc, char **argv, const char **positional, int *n_positional);

/* For mistakes only the command can see (`-p` together with `-f`). Returns CMD_USAGE. */
int cmd_usage_error(const struct cmd_spec *spec, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* --- Tables of subcommands ---------------------------------------------------------------- */

struct cmd_entry {
    const char *name; /* NULL ends the table */
    int (*run)(int argc, char **argv);
    const char *summary;
};

/* Runs the entry named argv[1] with the rest of argv. `program` is "forebay" or "forebay synth".
 * Also answers --help, --version, `help` and `help NAME`; anything else is CMD_USAGE. */
int cmd_dispatch(
    const char *program, const char *intro, const struct cmd_entry *table, int argc, char **argv);

int cmd_run(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_optimize(int argc, char **argv);
int cmd_profile(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_sim(int argc, char **argv);
int cmd_synth(int argc, char **argv);

#endif
