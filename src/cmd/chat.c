/*
 * chat.c - forebay chat: a conversation in the terminal, or of a script.
 *
 *      line_read --> message --> talk_say --> answer on stdout; reasoning, status line on stderr
 *          ^    '--> /command --> run_command --> its output on stderr
 *          '-----------------------------------------'
 *
 * Only answers go to stdout, so that a script reads nothing else. Ctrl-C ends the current answer;
 * the conversation continues.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/figures.h"
#include "cmd/line.h"
#include "cmd/progress.h"
#include "cmd/shared_options.h"
#include "cmd/talk.h"
#include "cmd/terminal.h"
#include "cmd/utf8.h"
#include "cmd/wrap.h"

struct chat {
    const char *path;
    const char *system; /* --system */
    bool quiet, verbose;
    struct forebay_model_options model_options;
    struct talk_options options;

    struct forebay_model *model;
    struct talk *talk;
    struct line_reader *reader;
    struct progress_line progress;
    struct talk_turn turn;         /* of the last answer */
    enum forebay_delta_kind shown; /* kind of the last piece shown */
    bool line_begun;               /* the answer so far does not end with a newline */
    struct wrap answer, reasoning; /* lines of each on the terminal */
    bool failed;                   /* some message or command; decides the exit code of scripts */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static int columns_of(int fd)
{
    return terminal_has_cursor(fd) ? terminal_columns(fd) : 0;
}

/* Prints a line on stderr. Without the prefix "forebay: ", which marks errors. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    struct wrap lines = {.out = stderr};
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    char *text = fb_xmalloc((size_t)n + 1);
    va_start(ap, format);
    vsnprintf(text, (size_t)n + 1, format, ap);
    va_end(ap);
    wrap_print(&lines, text, (size_t)n, columns_of(STDERR_FILENO));
    fputc('\n', stderr);
    free(text);
}

static void report(struct chat *c, const struct forebay_error *err)
{
    cmd_fail(err);
    c->failed = true;
}

/* --- Answers ------------------------------------------------------------------------------- */

/* Reasoning is dim on a terminal, and an empty line follows it. */
static void change_kind(struct chat *c, enum forebay_delta_kind kind)
{
    bool colour = terminal_has_colours(STDERR_FILENO);
    if (kind != c->shown && !c->quiet) {
        fputs(kind == FOREBAY_DELTA_REASONING ? (colour ? "\033[2m" : "")
              : colour                        ? "\033[0m\n\n"
                                              : "\n\n",
            stderr);
    }
    if (kind != c->shown) {
        c->answer = (struct wrap){.out = stdout};
        c->reasoning = (struct wrap){.out = stderr};
    }
    c->shown = kind;
}

/* Prints a piece of an answer. A terminal gets it without control sequences of the model. */
static bool print_piece(struct wrap *lines, int fd, const char *text, size_t n)
{
    if (!isatty(fd)) {
        return wrap_print(lines, text, n, 0);
    }
    char *clean = fb_xmalloc(n);
    memcpy(clean, text, n);
    bool printed = wrap_print(lines, clean, utf8_clean(clean, n), columns_of(fd));
    free(clean);
    return printed;
}

static bool show_piece(enum forebay_delta_kind kind, const char *text, size_t n, void *user)
{
    struct chat *c = user;
    progress_end(&c->progress);
    change_kind(c, kind);
    if (kind == FOREBAY_DELTA_REASONING) {
        return c->quiet || print_piece(&c->reasoning, STDERR_FILENO, text, n);
    }
    c->line_begun = text[n - 1] != '\n';
    return print_piece(&c->answer, STDOUT_FILENO, text, n);
}

static void status_line(const struct chat *c)
{
    static const char *const ends[] = {[TALK_ENDED] = "",
        [TALK_STOPPED] = "stopped; ",
        [TALK_LIMIT] = "stopped by -n; ",
        [TALK_FULL] = "stopped: the context is full (/new starts a new conversation); "};
    const struct talk_turn *t = &c->turn;
    bool colour = terminal_has_colours(STDERR_FILENO);
    char hits[32] = "";
    if (t->hit_rate >= 0) {
        snprintf(hits, sizeof hits, ", %.0f %% hits", t->hit_rate * 100);
    }
    fputs(colour ? "\033[2m" : "", stderr);
    say("[%s%u tokens, %.1f tokens/s%s; prompt: %u new, %u reused]", ends[t->end],
        t->generated_tokens, t->tok_per_s, hits, t->computed_tokens, t->reused_tokens);
    fputs(colour ? "\033[0m" : "", stderr);
}

static void say_to_model(struct chat *c, const char *text, size_t n)
{
    struct forebay_error err;
    interrupted = 0;
    c->shown = FOREBAY_DELTA_CONTENT;
    c->line_begun = false;
    c->answer = (struct wrap){.out = stdout};
    c->reasoning = (struct wrap){.out = stderr};
    enum forebay_status status = talk_say(c->talk, text, n, show_piece, c, &c->turn, &err);
    progress_end(&c->progress);
    change_kind(c, FOREBAY_DELTA_CONTENT);
    if (c->line_begun || (status == FOREBAY_OK && !line_reader_edits(c->reader))) {
        putchar('\n');
    }
    fflush(stdout);
    if (status != FOREBAY_OK) {
        report(c, &err);
    } else if (c->turn.generated_tokens == 0 && c->turn.end == TALK_STOPPED) {
        say("Stopped before the answer began: your message was removed.");
    } else if (!c->quiet) {
        status_line(c);
    }
}

/* --- Commands ------------------------------------------------------------------------------ */

static void command_help(struct chat *c, const char *arg);

static void command_stats(struct chat *c, const char *arg)
{
    struct forebay_stats stats;
    struct forebay_placement placement;
    (void)arg;
    forebay_stats_get(talk_session(c->talk), &stats);
    forebay_model_placement(c->model, &placement);
    say("chat:   %zu messages, %u of %u tokens of context in use; last prompt: %u tokens computed, "
        "%u reused",
        talk_n_messages(c->talk), forebay_session_n_past(talk_session(c->talk)),
        forebay_model_ctx(c->model), c->turn.computed_tokens, c->turn.reused_tokens);
    figures_print(&stats, &placement);
}

static void command_new(struct chat *c, const char *arg)
{
    (void)arg;
    talk_clear(c->talk);
    say("New conversation%s.", talk_system(c->talk) ? " with the same system message" : "");
}

static void command_system(struct chat *c, const char *arg)
{
    struct forebay_error err;
    const char *system = talk_system(c->talk);
    if (!*arg) {
        say("%s", system ? system : "There is no system message. /system TEXT sets one.");
    } else if (talk_set_system(c->talk, strcmp(arg, "-") == 0 ? "" : arg, &err) != FOREBAY_OK) {
        report(c, &err);
    } else {
        say("Effective with the next message, which evaluates the whole conversation again.");
    }
}

static void command_file(struct chat *c, const char *arg, bool save)
{
    struct forebay_error err;
    if (!*arg) {
        fb_fail(&err, FOREBAY_E_USAGE, "", "missing file name: /%s FILE", save ? "save" : "load");
        report(c, &err);
    } else if ((save ? talk_save(c->talk, arg, &err) : talk_load(c->talk, arg, &err)) !=
               FOREBAY_OK) {
        report(c, &err);
    } else {
        say("%zu messages %s %s.", talk_n_messages(c->talk), save ? "saved to" : "loaded from",
            arg);
    }
}

static void command_save(struct chat *c, const char *arg)
{
    command_file(c, arg, true);
}

static void command_load(struct chat *c, const char *arg)
{
    command_file(c, arg, false);
}

struct command {
    const char *name, *arg, *help;
    void (*run)(struct chat *c, const char *arg); /* NULL: ends the chat */
};

static const struct command commands[] = {
    {"help", "", "show this text", command_help},
    {"new", "", "start a new conversation (also /clear)", command_new},
    {"clear", "", NULL, command_new},
    {"system", "TEXT", "set the system message; - removes it, no argument shows it",
        command_system},
    {"save", "FILE", "save the conversation to a file", command_save},
    {"load", "FILE", "load the conversation in a file and continue it", command_load},
    {"stats", "", "show speed, hit rate, memory, tokens reused and computed", command_stats},
    {"quit", "", "end the chat (also /exit, /bye, Ctrl-D)", NULL},
    {"exit", "", NULL, NULL},
    {"bye", "", NULL, NULL},
};

static void command_help(struct chat *c, const char *arg)
{
    (void)c;
    (void)arg;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (commands[i].help) {
            say("  /%-7s%-6s%s", commands[i].name, commands[i].arg, commands[i].help);
        }
    }
    say("Ctrl-C ends an answer. Pasted lines are one message, and so is all text between two lines "
        "\"\"\". A message that begins with / is typed with //.");
}

/* `line`: the command without its slash. Returns false to end the chat. */
static bool run_command(struct chat *c, const char *line)
{
    struct forebay_error err;
    size_t length = strcspn(line, " \t");
    const char *arg = line + length + strspn(line + length, " \t");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strlen(commands[i].name) == length && memcmp(commands[i].name, line, length) == 0) {
            if (commands[i].run) {
                commands[i].run(c, arg);
            }
            return commands[i].run != NULL;
        }
    }
    struct cmd_guess guess = cmd_guess_begin(line, length);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        cmd_guess_add(&guess, commands[i].name);
    }
    char hint[64];
    snprintf(hint, sizeof hint, guess.name ? "Did you mean /%s?" : "/help lists the commands.",
        guess.name);
    fb_fail(&err, FOREBAY_E_USAGE, hint, "unknown command /%.*s", (int)fb_min(length, 40), line);
    report(c, &err);
    return true;
}

/* --- The conversation ---------------------------------------------------------------------- */

/* Reads lines up to a line of three quotes, or to the end of input. */
static enum line_status read_quoted(struct chat *c, char **text, size_t *n)
{
    char *all = NULL;
    size_t total = 0;
    for (;;) {
        const char *line;
        size_t length;
        enum line_status status = line_read(c->reader, ". ", &line, &length);
        if (status != LINE_READ || strcmp(line, "\"\"\"") == 0) {
            *text = all;
            *n = total ? total - 1 : 0; /* without the last newline */
            return status == LINE_END ? LINE_READ : status;
        }
        all = fb_xrealloc(all, total + length + 1);
        memcpy(all + total, line, length);
        all[total + length] = '\n';
        total += length + 1;
    }
}

/* Handles one message or command. Returns false to end the chat. */
static bool handle_line(struct chat *c, const char *line, size_t n)
{
    char *quoted = NULL;
    if (strspn(line, " \t") == n) {
        return true;
    }
    if (line[0] == '/' && line[1] != '/' && !memchr(line, '\n', n)) { /* not pasted text */
        return run_command(c, line + 1);
    }
    if (strcmp(line, "\"\"\"") == 0) {
        bool whole = read_quoted(c, &quoted, &n) == LINE_READ;
        if (whole && n > 0) {
            say_to_model(c, quoted, n);
        }
        free(quoted);
        return true;
    }
    size_t slash = line[0] == '/';
    say_to_model(c, line + slash, n - slash);
    return true;
}

/* Reads and handles lines until the end of input. */
static int converse(struct chat *c)
{
    const char *line;
    size_t n;
    for (;;) {
        interrupted = 0;
        enum line_status status = line_read(c->reader, "> ", &line, &n);
        if (status == LINE_INTERRUPTED && !line_reader_edits(c->reader)) {
            return CMD_INTERRUPTED;
        }
        if (status == LINE_INTERRUPTED) {
            say("Ctrl-D ends the chat.");
        } else if (status == LINE_END || !handle_line(c, line, n)) {
            return c->failed && !line_reader_edits(c->reader) ? CMD_FAILED : CMD_OK;
        }
    }
}

/* --- The command --------------------------------------------------------------------------- */

static int parse(struct chat *c, int argc, char **argv)
{
    struct cmd_option options[] = {{CMD_GROUP, .help = "Conversation"},
        {CMD_STRING, 0, "system", "TEXT", "system message", .target = &c->system},
        {CMD_FLAG, 0, "no-think", NULL, "ask a model that can think first to answer at once",
            .target = &c->options.no_think},
        {CMD_UINT32, 'n', "predict", "N",
            "maximum number of tokens of an answer; default: no limit",
            .target = &c->options.max_tokens, .min = 1, .max = 1e9},
        CMD_SAMPLING_OPTIONS(&c->options.sampling,
            "temperature (default 0.8); 0: always the likeliest token",
            "random seed; default: a different one each time"),
        CMD_MODEL_OPTIONS(&c->model_options), {CMD_GROUP, .help = "Output"},
        {CMD_FLAG, 'q', "quiet", NULL, "print only answers and errors", .target = &c->quiet},
        {CMD_FLAG, 'v', "verbose", NULL, "print llama.cpp's messages, too", .target = &c->verbose},
        {0}};
    const struct cmd_spec spec = {"chat", "MODEL [options]",
        "A conversation in the terminal with a model that may be bigger than memory. Tokens "
        "computed for earlier messages are reused. The command /help lists the commands. If "
        "standard input is not a terminal, each of its lines is a message; only answers go to "
        "standard output.",
        options, 1, 1,
        "Lines typed on a terminal are kept for later sessions in chat-history in the cache "
        "directory ($FOREBAY_CACHE_DIR, or else the user's), which only this user may read. With "
        "NO_COLOR set, nothing is dimmed."};
    return cmd_parse(&spec, argc, argv, &c->path, NULL);
}

/* Says what talks, within which memory and how fast. */
static void introduce(const struct chat *c)
{
    struct forebay_placement p;
    struct forebay_speed speed;
    const char *name = strrchr(c->path, '/');
    forebay_model_placement(c->model, &p);
    forebay_model_speed(c->model, &speed);
    char expected[96] = "";
    if (speed.decode_tok_per_s > 0) {
        snprintf(expected, sizeof expected, "; about %.1f tokens/s (limit: %s)",
            speed.decode_tok_per_s, speed.limit ? speed.limit : "computing");
    }
    say("%s: %s of weights%s; memory budget %s%s", name ? name + 1 : c->path,
        FB_SIZE(p.weights_bytes), p.fits ? ", all in memory" : "", FB_SIZE(p.budget_bytes),
        expected);
    if (line_reader_edits(c->reader)) {
        say("%u tokens of context. /help lists the commands, Ctrl-D ends the chat.",
            forebay_model_ctx(c->model));
    }
}

/* Without SA_RESTART: Ctrl-C ends an answer, and the reading of a line. */
static void watch_interrupts(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

static enum forebay_status start(struct chat *c, struct forebay_error *err)
{
    progress_init(&c->progress, c->quiet);
    c->model_options.progress = progress_report;
    c->model_options.progress_user = &c->progress;
    enum forebay_status status = forebay_model_load(c->path, &c->model_options, &c->model, err);
    progress_end(&c->progress);
    if (status == FOREBAY_OK) {
        c->options.batch = forebay_model_batch(c->model);
        c->options.stop = &interrupted;
        if (c->progress.terminal) {
            c->options.progress = progress_report;
            c->options.progress_user = &c->progress;
        }
        status = talk_new(c->model, &c->options, &c->talk, err);
    }
    if (status == FOREBAY_OK && c->system) {
        status = talk_set_system(c->talk, c->system, err);
    }
    return status;
}

int cmd_chat(int argc, char **argv)
{
    struct chat c = {0};
    struct forebay_error err;
    forebay_model_options_init(&c.model_options);
    forebay_sampling_init(&c.options.sampling);
    c.options.sampling.temp = 0.8f;
    c.options.sampling.seed = (uint32_t)fb_now_ns();
    int rc = parse(&c, argc, argv);
    if (rc != CMD_GO_ON) {
        return rc;
    }
    forebay_log_set_level(c.verbose ? FOREBAY_LOG_DEBUG : FOREBAY_LOG_WARN);
    if (start(&c, &err) != FOREBAY_OK) {
        rc = cmd_fail(&err);
    } else {
        c.reader = line_reader_new();
        if (!c.quiet) {
            introduce(&c);
        }
        watch_interrupts();
        rc = converse(&c);
        line_reader_free(c.reader);
    }
    talk_free(c.talk);
    forebay_model_free(c.model);
    return rc;
}
