/* test_options.c - option tables: accepted and rejected command lines, the help, exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/options.c" /* the program is not a library */

struct values {
    const char *prompt;
    bool json;
    bool repack;
    int count;
    uint32_t limit;
    float temp;
    uint64_t mem, disk;
    char ids[32];
};

static const struct values defaults = {"none", false, true, -7, 128, 0.5f, 4096, 0, ""};

static struct values v;
static const char *positional[2];
static int n_positional;
static char out[8192];
static char err[8192];

static const char *parse_ids(const char *text, void *target)
{
    if (strspn(text, "0123456789,") != strlen(text)) {
        return "numbers separated by commas";
    }
    snprintf(target, sizeof v.ids, "%s", text);
    return NULL;
}

static const struct cmd_option table[] = {
    {CMD_GROUP, .help = "Input"},
    {CMD_STRING, 'p', "prompt", "TEXT", "text", .target = &v.prompt},
    {CMD_FLAG, 0, "json", NULL, "print JSON", .target = &v.json},
    {CMD_NO_FLAG, 0, "no-repack", NULL, "as stored", .target = &v.repack},
    {CMD_INT, 'c', "count", "N", "a number", .target = &v.count},
    {CMD_UINT32, 'n', NULL, "N", "up to 1000", .target = &v.limit, .min = 1, .max = 1000},
    {CMD_FLOAT, 0, "temp", "T", "a fraction", .target = &v.temp, .min = 0, .max = 2},
    {CMD_SIZE, 0, "mem", "SIZE", "memory", .target = &v.mem, .min = 1024, .max = 1e12},
    {CMD_RATE, 0, "disk", "RATE", "disk", .target = &v.disk},
    {CMD_CALL, 0, "tokens", "1,2,3", "ids", .target = v.ids, .parse = parse_ids},
    {0},
};

static const struct cmd_spec spec = {
    "try", "MODEL [FILE] [options]", "Tries things.", table, 1, 2, NULL};

/* Runs cmd_parse with words separated by '|'; captures stdout and stderr in `out` and `err`. */
static int parse(const char *words)
{
    static char text[512]; /* `positional` points into it */
    char *argv[32] = {(char[]){"try"}};
    int argc = 1;
    snprintf(text, sizeof text, "%s", words);
    for (char *w = text, *next; *words && w; w = next) {
        next = strchr(w, '|');
        if (next) {
            *next++ = 0;
        }
        argv[argc++] = w;
    }
    v = defaults;
    n_positional = -1;
    FILE *files[2] = {tmpfile(), tmpfile()};
    int saved[2] = {dup(1), dup(2)};
    fflush(NULL);
    dup2(fileno(files[0]), 1);
    dup2(fileno(files[1]), 2);
    int rc = cmd_parse(&spec, argc, argv, positional, &n_positional);
    fflush(NULL);
    char *const buffers[2] = {out, err};
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], 1 + i);
        close(saved[i]);
        rewind(files[i]);
        buffers[i][fread(buffers[i], 1, sizeof out - 1, files[i])] = 0;
        fclose(files[i]);
    }
    return rc;
}

static void test_valid_command_lines_set_the_targets(void **state)
{
    (void)state;
    assert_int_equal(parse("model"), CMD_GO_ON);
    assert_memory_equal(&v, &defaults, sizeof v);
    assert_int_equal(n_positional, 1);
    assert_string_equal(positional[0], "model");
    assert_int_equal(parse("-p|-x|m|--json|--no-repack|--count|-3|-n1000|f|--temp=2|--mem|1.5K|"
                           "--tokens|1,22"),
        CMD_GO_ON);
    assert_int_equal(n_positional, 2);
    assert_string_equal(positional[1], "f");
    assert_string_equal(v.prompt, "-x");
    assert_true(v.json && !v.repack);
    assert_int_equal(v.count, -3);
    assert_int_equal(v.limit, 1000);
    assert_true(v.temp == 2.0f);
    assert_int_equal(v.mem, 1536);
    assert_string_equal(v.ids, "1,22");
    assert_int_equal(parse("--prompt=|--count=1|--count=2|--|--json"), CMD_GO_ON);
    assert_string_equal(v.prompt, "");
    assert_int_equal(v.count, 2);
    assert_false(v.json);
    assert_string_equal(positional[0], "--json");
    assert_int_equal(parse("-"), CMD_GO_ON);
    assert_string_equal(positional[0], "-");
    assert_string_equal(out, "");
    assert_string_equal(err, "");
}

static void test_mistakes_name_the_argument_and_the_valid_values(void **state)
{
    static const struct {
        const char *words;
        const char *message;
    } cases[] = {
        {"", "missing argument MODEL"},
        {"a|b|c", "unexpected argument 'c'"},
        {"m|--jso", "unknown option --jso"},
        {"m|--jsonx", "unknown option --jsonx\n  hint: Did you mean --json?\nusage: forebay try "},
        {"m|--promt=x", "unknown option --promt\n  hint: Did you mean --prompt?"},
        {"m|--propmt", "Did you mean --prompt?"},
        {"m|--temperature|1", "Did you mean --temp?"},
        {"m|-temp|1", "unknown option -temp\n  hint: Did you mean --temp?"},
        {"m|--no-repak", "Did you mean --no-repack?"},
        {"m|--hlep", "Did you mean --help?"},
        {"m|--frobnicate", "unknown option --frobnicate\nusage: "},
        {"m|-hf|user/model", "unknown option -hf\n  hint: Forebay downloads nothing"},
        {"m|--hf-repo=a/b", "unknown option --hf-repo\n  hint: Forebay downloads nothing"},
        {"-m|a.gguf", "unknown option -m\n  hint: The model's path is given without an option"},
        {"m|--model|a", "unknown option --model\n  hint: The model's path"},
        {"m|-cnv", "unknown option -cnv\n  hint: For conversations: forebay chat MODEL."},
        {"m|-ngl|99", "unknown option -ngl\n  hint: Forebay chooses the layers itself"},
        {"m|-x", "unknown option -x"},
        {"m|-h5", "unknown option -h"},
        {"m|--json=1", "--json does not accept a value"},
        {"m|-p", "-p needs a value (TEXT)"},
        {"m|--count", "--count needs a value (N)"},
        {"m|--count=", "--count: expected a whole number, not ''"},
        {"m|--count=1x", "not '1x'"},
        {"m|--count= 1", "not ' 1'"},
        {"m|--count=1.5", "not '1.5'"},
        {"m|--count=2147483648", "not '2147483648'"},
        {"m|--count=99999999999999999999", "expected a whole number"},
        {"m|-n0", "-n: expected a whole number from 1 to 1000, not '0'"},
        {"m|-n|1001", "from 1 to 1000"},
        {"m|-n|-1", "not '-1'"},
        {"m|--temp=nan", "--temp: expected a number from 0 to 2, not 'nan'"},
        {"m|--temp=inf", "not 'inf'"},
        {"m|--temp=2.1", "not '2.1'"},
        {"m|--temp=1e999", "not '1e999'"},
        {"m|--mem=4X", "expected a size like 512M or 4G"},
        {"m|--mem=1000", "from 1.0 KiB to"},
        {"m|--mem=-1", "not '-1'"},
        {"m|--disk=fast", "--disk: expected bytes per second like 1.8G or 550M, not 'fast'"},
        {"m|--tokens=1;2", "--tokens: expected numbers separated by commas, not '1;2'"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].words), CMD_USAGE);
        if (!strstr(err, cases[i].message)) {
            fail_msg("'%s' gave: %s", cases[i].words, err);
        }
        assert_int_equal(strncmp(err, "forebay: ", 8), 0);
        assert_non_null(strstr(err, "usage: forebay try MODEL [FILE] [options]\n"));
        assert_string_equal(out, "");
    }
}

static void test_help_and_version_win_over_everything_after_them(void **state)
{
    (void)state;
    static const char *const asked[] = {"--help", "-h", "m|--json|--help|--nonsense"};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        assert_int_equal(parse(asked[i]), CMD_OK);
        assert_string_equal(err, "");
        assert_non_null(strstr(out, "Usage: forebay try MODEL [FILE] [options]"));
        assert_non_null(strstr(out, "  -p, --prompt TEXT   text\n"));
        assert_non_null(strstr(out, "      --no-repack     as stored\n"));
        assert_non_null(strstr(out, "  -n N                up to 1000\n"));
        assert_non_null(strstr(out, "--version"));
    }
    assert_int_equal(parse("--version"), CMD_OK);
    assert_non_null(strstr(out, forebay_version()));
}

static void test_each_status_has_its_exit_code(void **state)
{
    (void)state;
    assert_int_equal(cmd_exit_code(FOREBAY_OK), 0);
    assert_int_equal(cmd_exit_code(FOREBAY_E_IO), 1);
    assert_int_equal(cmd_exit_code(FOREBAY_E_FORMAT), 1);
    assert_int_equal(cmd_exit_code(FOREBAY_E_LLAMA), 1);
    assert_int_equal(cmd_exit_code(FOREBAY_E_CANCELLED), 1);
    assert_int_equal(cmd_exit_code(FOREBAY_E_USAGE), 2);
    assert_int_equal(cmd_exit_code(FOREBAY_E_NOFIT), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid_command_lines_set_the_targets),
        cmocka_unit_test(test_mistakes_name_the_argument_and_the_valid_values),
        cmocka_unit_test(test_help_and_version_win_over_everything_after_them),
        cmocka_unit_test(test_each_status_has_its_exit_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
