/*
 * options.c - parses option tables and prints them as help.
 *
 * A table is the only description of its options: an option is accepted if and only if the help
 * lists it. --help and --version are added to every table. The help is wrapped at HELP_WIDTH:
 *
 *      |  -n, --predict N         tokens to generate (default 128)
 *      |<--------- column ------->|<------- text, wrapped -------->|
 *
 * Labels wider than HELP_COLUMN_MAX get a line of their own.
 */
#include "cmd/options.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

#define HELP_WIDTH      90
#define HELP_COLUMN_MAX 26

/* --- Exit codes --------------------------------------------------------------------------- */

int cmd_exit_code(enum forebay_status status)
{
    switch (status) {
    case FOREBAY_OK:
        return CMD_OK;
    case FOREBAY_E_USAGE:
    case FOREBAY_E_CONTEXT:
        return CMD_USAGE;
    case FOREBAY_E_NOFIT:
        return CMD_NOFIT;
    default:
        return CMD_FAILED;
    }
}

int cmd_fail(const struct forebay_error *err)
{
    fflush(stdout);
    fprintf(stderr, "forebay: %s\n", err->message);
    if (err->hint[0]) {
        fprintf(stderr, "  hint: %s\n", err->hint);
    }
    return cmd_exit_code(err->status);
}

/* --- Help --------------------------------------------------------------------------------- */

static const struct cmd_option standard_options[] = {
    {CMD_CALL, 'h', "help", NULL, "show this text", NULL, 0, 0, NULL},
    {CMD_CALL, 0, "version", NULL, "show the versions of forebay and llama.cpp", NULL, 0, 0, NULL},
    {CMD_END, 0, NULL, NULL, NULL, NULL, 0, 0, NULL},
};

static void print_version(void)
{
    printf("forebay %s (llama.cpp %s)\n", forebay_version(), forebay_llama_version());
}

/* Prints `text` wrapped at HELP_WIDTH, each line indented; the cursor is at the indent already. */
static void print_wrapped(const char *text, int indent)
{
    int column = indent;
    while (*text) {
        size_t word = strcspn(text, " \n");
        if (column > indent && column + 1 + (int)word > HELP_WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%.*s", (int)word, text);
        column += (int)word;
        text += word;
        if (*text == '\n') {
            printf("\n%*s", indent, "");
            column = indent;
        }
        text += *text != 0;
    }
    putchar('\n');
}

/* "  -n, --predict N" */
static void option_label(const struct cmd_option *o, char *buf, size_t cap)
{
    char short_part[8] = "    ";
    if (o->short_name) {
        snprintf(short_part, sizeof short_part, "-%c%s", o->short_name, o->name ? ", " : "");
    }
    snprintf(buf, cap, "  %s%s%s%s%s", short_part, o->name ? "--" : "", o->name ? o->name : "",
        o->arg ? " " : "", o->arg ? o->arg : "");
}

static int help_column(const struct cmd_option *table)
{
    int widest = 0;
    char label[96];
    for (const struct cmd_option *o = table; o->kind != CMD_END; o++) {
        if (o->kind != CMD_GROUP) {
            option_label(o, label, sizeof label);
            int length = (int)strlen(label);
            widest = length > widest && length <= HELP_COLUMN_MAX ? length : widest;
        }
    }
    return widest + 2;
}

static void print_options(const struct cmd_option *table, int column)
{
    char label[96];
    for (const struct cmd_option *o = table; o->kind != CMD_END; o++) {
        if (o->kind == CMD_GROUP) {
            printf("\n%s\n", o->help);
            continue;
        }
        option_label(o, label, sizeof label);
        int length = (int)strlen(label);
        if (length + 2 > column) {
            printf("%s\n%*s", label, column, "");
        } else {
            printf("%-*s", column, label);
        }
        print_wrapped(o->help, column);
    }
}

static void print_help(const struct cmd_spec *spec)
{
    printf("Usage: forebay %s %s\n\n", spec->name, spec->synopsis);
    print_wrapped(spec->summary, 0);
    int column = help_column(spec->options);
    int least = help_column(standard_options);
    column = column > least ? column : least;
    if (spec->options->kind != CMD_GROUP) {
        printf("\nOptions\n");
    }
    print_options(spec->options, column);
    if (spec->options->kind == CMD_GROUP) {
        printf("\nOther\n");
    }
    print_options(standard_options, column);
    if (spec->details) {
        putchar('\n');
        print_wrapped(spec->details, 0);
    }
}

static void usage_text(const char *name, const char *synopsis)
{
    fprintf(stderr, "usage: forebay %s %s\nOptions: forebay %s --help\n", name, synopsis, name);
}

int cmd_usage_error(const struct cmd_spec *spec, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fflush(stdout);
    fprintf(stderr, "forebay: ");
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    usage_text(spec->name, spec->synopsis);
    return CMD_USAGE;
}

/* --- Values ------------------------------------------------------------------------------- */

/* All of `text` must be a decimal integer in [low, high]. */
static bool parse_integer(const char *text, long long low, long long high, long long *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || strchr(" \t\n\v\f\r", *text) || value < low ||
        value > high) {
        return false;
    }
    *out = value;
    return true;
}

static bool parse_float(const char *text, double low, double high, float *out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || strchr(" \t\n\v\f\r", *text) || !isfinite(value) ||
        fabs(value) > 3.4e38 || value < low || value > high) {
        return false;
    }
    *out = (float)value;
    return true;
}

static bool limited(const struct cmd_option *o)
{
    return o->min != 0 || o->max != 0;
}

/* Describes the valid values for the error message: "a whole number from 1 to 64". */
static void describe_range(const struct cmd_option *o, char *buf, size_t cap)
{
    const char *kind = o->kind == CMD_FLOAT  ? "a number"
                       : o->kind == CMD_RATE ? "bytes per second like 1.8G or 550M"
                       : o->kind == CMD_SIZE ? "a size like 512M or 4G"
                                             : "a whole number";
    if (o->kind == CMD_RATE) {
        snprintf(buf, cap, "%s", kind);
    } else if (!limited(o)) {
        snprintf(buf, cap, o->kind == CMD_UINT32 ? "%s, 0 or more" : "%s", kind);
    } else if (o->kind == CMD_SIZE) {
        snprintf(buf, cap, "%s, from %s to %s", kind, FB_SIZE((uint64_t)o->min),
            FB_SIZE((uint64_t)o->max));
    } else if (o->max >= 1e9) {
        snprintf(buf, cap, "%s, %.10g or more", kind, o->min);
    } else {
        snprintf(buf, cap, "%s from %.10g to %.10g", kind, o->min, o->max);
    }
}

static bool store_number(const struct cmd_option *o, const char *text)
{
    double type_low = o->kind == CMD_INT ? INT_MIN : 0;
    double type_high = o->kind == CMD_INT ? INT_MAX : UINT32_MAX;
    long long low = (long long)(limited(o) ? fmax(o->min, type_low) : type_low);
    long long high = (long long)(limited(o) ? fmin(o->max, type_high) : type_high);
    long long value;
    uint64_t size;
    switch (o->kind) {
    case CMD_INT:
        return parse_integer(text, low, high, &value) && (*(int *)o->target = (int)value, true);
    case CMD_UINT32:
        return parse_integer(text, low, high, &value) &&
               (*(uint32_t *)o->target = (uint32_t)value, true);
    case CMD_FLOAT:
        return parse_float(
            text, limited(o) ? o->min : -INFINITY, limited(o) ? o->max : INFINITY, o->target);
    default:
        return (o->kind == CMD_RATE ? fb_parse_rate : fb_parse_size)(text, &size) &&
               (!limited(o) || ((double)size >= o->min && (double)size <= o->max)) &&
               (*(uint64_t *)o->target = size, true);
    }
}

static bool has_value(const struct cmd_option *o)
{
    return o->kind != CMD_FLAG && o->kind != CMD_NO_FLAG && o->arg != NULL;
}

/* `shown`: the option as the user wrote it. Returns CMD_GO_ON or CMD_USAGE. */
static int store(
    const struct cmd_spec *spec, const struct cmd_option *o, const char *shown, const char *text)
{
    char expected[96] = "";
    switch (o->kind) {
    case CMD_FLAG:
        *(bool *)o->target = true;
        return CMD_GO_ON;
    case CMD_NO_FLAG:
        *(bool *)o->target = false;
        return CMD_GO_ON;
    case CMD_STRING:
        *(const char **)o->target = text;
        return CMD_GO_ON;
    case CMD_CALL: {
        const char *wrong = o->parse(text, o->target);
        if (!wrong) {
            return CMD_GO_ON;
        }
        snprintf(expected, sizeof expected, "%s", wrong);
        break;
    }
    default:
        if (store_number(o, text)) {
            return CMD_GO_ON;
        }
        describe_range(o, expected, sizeof expected);
    }
    return cmd_usage_error(spec, "%s: expected %s, not '%s'", shown, expected, text);
}

/* --- Suggestions -------------------------------------------------------------------------- */

#define WORD_MAX 32

/* Number of characters inserted, deleted, replaced, or exchanged with their neighbour between two
 * words; WORD_MAX if one is too long. */
static int distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int d[WORD_MAX + 1][WORD_MAX + 1];
    if (n_a > WORD_MAX || n_b > WORD_MAX) {
        return WORD_MAX;
    }
    for (size_t i = 0; i <= n_a; i++) {
        for (size_t j = 0; j <= n_b; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (int)(i + j);
                continue;
            }
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            d[i][j] = swapped && d[i - 2][j - 2] + 1 < best ? d[i - 2][j - 2] + 1 : best;
        }
    }
    return d[n_a][n_b];
}

struct cmd_guess cmd_guess_begin(const char *word, size_t length)
{
    /* A third of the word may be wrong; of two letters, none. */
    int most = length < 3 ? 0 : length < 6 ? 1 : length < 9 ? 2 : 3;
    return (struct cmd_guess){word, length, most, NULL};
}

void cmd_guess_add(struct cmd_guess *g, const char *name)
{
    size_t n = strlen(name), shared = n < g->length ? n : g->length;
    int away = distance(g->word, g->length, name, n);
    if (shared >= 3 && strncmp(g->word, name, shared) == 0) { /* --temperature for --temp */
        away = away < 1 ? away : 1;
    }
    if (away <= g->most) {
        g->most = away - 1;
        g->name = name;
    }
}

/* Options of llama.cpp's programs that have another form here. */
static const char *foreign_option(const char *word)
{
    static const struct {
        const char *words, *hint;
    } table[] = {
        {" -hf --hf-repo -hfr -hff --hf-file -mu --model-url -dr --docker-repo ",
            "Forebay downloads nothing: download a GGUF file, and give its path."},
        {" -m --model ", "The model's path is given without an option, as the first argument."},
        {" -ngl --gpu-layers --n-gpu-layers ",
            "Forebay chooses the layers itself: see --device and --device-mem."},
        {" -cnv --conversation -i --interactive ", "For conversations: forebay chat MODEL."},
    };
    char quoted[WORD_MAX + 3];
    snprintf(quoted, sizeof quoted, " %.*s ", (int)(strcspn(word, "=") % WORD_MAX), word);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strstr(table[i].words, quoted)) {
            return table[i].hint;
        }
    }
    return NULL;
}

/* `shown`: the option without its value. */
static int unknown_option(const struct cmd_spec *spec, const char *word, const char *shown)
{
    const char *bare = word + strspn(word, "-"), *foreign = foreign_option(word);
    struct cmd_guess guess = cmd_guess_begin(bare, strcspn(bare, "="));
    for (const struct cmd_option *o = spec->options; o->kind != CMD_END; o++) {
        if (o->kind != CMD_GROUP && o->name) {
            cmd_guess_add(&guess, o->name);
        }
    }
    cmd_guess_add(&guess, "help");
    if (foreign) {
        return cmd_usage_error(spec, "unknown option %s\n  hint: %s", shown, foreign);
    }
    if (guess.name) {
        return cmd_usage_error(
            spec, "unknown option %s\n  hint: Did you mean --%s?", shown, guess.name);
    }
    return cmd_usage_error(spec, "unknown option %s", shown);
}

/* --- Parsing ------------------------------------------------------------------------------ */

static const struct cmd_option *find_long(
    const struct cmd_option *table, const char *name, size_t length)
{
    for (const struct cmd_option *o = table; o->kind != CMD_END; o++) {
        if (o->kind != CMD_GROUP && o->name && strlen(o->name) == length &&
            memcmp(o->name, name, length) == 0) {
            return o;
        }
    }
    return NULL;
}

static const struct cmd_option *find_short(const struct cmd_option *table, char name)
{
    for (const struct cmd_option *o = table; o->kind != CMD_END; o++) {
        if (o->kind != CMD_GROUP && o->short_name == name) {
            return o;
        }
    }
    return NULL;
}

/* Handles the option argv[*i] and its value, and leaves *i at the last argument used. */
static int parse_option(const struct cmd_spec *spec, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    bool is_long = word[1] == '-';
    const char *name = word + (is_long ? 2 : 1);
    size_t length = is_long ? strcspn(name, "=") : 1;
    const char *value =
        is_long ? (name[length] == '=' ? name + length + 1 : NULL) : (name[1] ? name + 1 : NULL);
    char shown[64];
    snprintf(shown, sizeof shown, "%.*s", (int)(name + length - word), word);
    const struct cmd_option *o =
        is_long ? find_long(spec->options, name, length) : find_short(spec->options, *name);
    if (!o || (!is_long && word[2] && foreign_option(word))) { /* -ngl is not -n gl */
        snprintf(shown, sizeof shown, "%.*s", (int)(strcspn(word, "=") % sizeof shown), word);
        return unknown_option(spec, word, shown);
    }
    if (!has_value(o)) {
        return value ? cmd_usage_error(spec, "%s does not accept a value ('%s')", shown, word)
                     : store(spec, o, shown, NULL);
    }
    if (!value) {
        if (*i + 1 >= argc) {
            return cmd_usage_error(spec, "%s needs a value (%s)", shown, o->arg);
        }
        value = argv[++*i];
    }
    return store(spec, o, shown, value);
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

int cmd_parse(
    const struct cmd_spec *spec, int argc, char **argv, const char **positional, int *n_positional)
{
    int n = 0;
    bool options_end = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        int rc = CMD_GO_ON;
        if (options_end || word[0] != '-' || !word[1]) {
            if (n == spec->max_positional) {
                return cmd_usage_error(spec, "unexpected argument '%s'%s", word,
                    strstr(spec->synopsis, "[PROMPT]")
                        ? "\n  hint: A prompt of several words needs quotes."
                        : "");
            }
            positional[n++] = word;
        } else if (strcmp(word, "--") == 0) {
            options_end = true;
        } else if (is_help(word)) {
            print_help(spec);
            return CMD_OK;
        } else if (strcmp(word, "--version") == 0) {
            print_version();
            return CMD_OK;
        } else {
            rc = parse_option(spec, argc, argv, &i);
        }
        if (rc != CMD_GO_ON) {
            return rc;
        }
    }
    if (n < spec->min_positional) {
        int first_word = (int)strcspn(spec->synopsis, " ");
        return cmd_usage_error(spec, "missing argument %.*s", first_word, spec->synopsis);
    }
    if (n_positional) {
        *n_positional = n;
    }
    return CMD_GO_ON;
}

/* --- Tables of subcommands ---------------------------------------------------------------- */

static void print_commands(FILE *to, const char *program, const struct cmd_entry *table)
{
    fprintf(to, "%s: %s COMMAND [arguments]\n\n", to == stdout ? "Usage" : "usage", program);
    for (const struct cmd_entry *e = table; e->name; e++) {
        fprintf(to, "  %-10s%s\n", e->name, e->summary);
    }
    fprintf(to, "\nHelp for a command: %s COMMAND --help\n", program);
}

static const struct cmd_entry *find_entry(const struct cmd_entry *table, const char *name)
{
    for (const struct cmd_entry *e = table; e->name; e++) {
        if (strcmp(e->name, name) == 0) {
            return e;
        }
    }
    return NULL;
}

static void unknown_command(const char *program, const struct cmd_entry *table, const char *name)
{
    struct cmd_guess guess = cmd_guess_begin(name, strlen(name));
    for (const struct cmd_entry *e = table; e->name; e++) {
        cmd_guess_add(&guess, e->name);
    }
    fprintf(stderr, "%s: unknown command '%s'\n", program, name);
    const char *suffix = strrchr(name, '.');
    if (guess.name) {
        fprintf(stderr, "  hint: Did you mean %s?\n", guess.name);
    } else if (suffix && strcmp(suffix, ".gguf") == 0) {
        fprintf(stderr, "  hint: The command comes first: forebay run %s\n", name);
    }
}

int cmd_dispatch(
    const char *program, const char *intro, const struct cmd_entry *table, int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    const struct cmd_entry *entry = name ? find_entry(table, name) : NULL;
    if (entry) {
        return entry->run(argc - 1, argv + 1);
    }
    if (name && strcmp(name, "--version") == 0) {
        print_version();
        return CMD_OK;
    }
    if (name && (is_help(name) || strcmp(name, "help") == 0)) {
        const struct cmd_entry *topic = argc > 2 ? find_entry(table, argv[2]) : NULL;
        if (topic) {
            char *help[] = {argv[2], (char[]){"--help"}, NULL};
            return topic->run(2, help);
        }
        if (argc == 2) {
            printf("%s\n\n", intro);
            print_commands(stdout, program, table);
            return CMD_OK;
        }
        name = argv[2];
    }
    if (name) {
        unknown_command(program, table, name);
    } else {
        fprintf(stderr, "%s: missing command\n", program);
    }
    print_commands(stderr, program, table);
    return CMD_USAGE;
}
