/* test_wrap.c - streamed text on a terminal: what is printed, and what a terminal makes of it. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <locale.h>

#include "cmd/wrap.c" /* the program is not a library */

#define COLUMNS 10

static char screen[32][COLUMNS * 4 + 1]; /* ASCII: one byte a column */

/* Draws like a terminal of COLUMNS columns that knows LF, TAB, CSI n G and CSI K. */
static int draw(const char *text, size_t n)
{
    int row = 0, column = 0;
    memset(screen, 0, sizeof screen);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n') {
            row++, column = 0;
        } else if (text[i] == '\t') {
            do {
                screen[row][column++] = ' ';
            } while (column % 8);
        } else if (text[i] == '\033') {
            char *end;
            assert_int_equal(text[i + 1], '[');
            long number = strtol(text + i + 2, &end, 10);
            if (*end == 'G') {
                column = (int)number - 1;
            } else {
                assert_int_equal(*end, 'K');
                memset(screen[row] + column, 0, sizeof screen[row] - (size_t)column);
            }
            i = (size_t)(end - text);
        } else {
            if (column == COLUMNS) {
                row++, column = 0;
            }
            assert_true(column < COLUMNS);
            screen[row][column++] = text[i];
        }
    }
    return row + 1;
}

/* Prints the text in pieces of `step` bytes; `want` are the lines on the screen, separated by '|'.
 * Spaces at the end of a line do not count. */
static void check(const char *text, size_t step, const char *want)
{
    char *printed = NULL, got[512] = "";
    size_t n = 0;
    FILE *out = open_memstream(&printed, &n);
    struct wrap w = {.out = out};
    for (size_t i = 0; i < strlen(text); i += step) {
        size_t left = strlen(text) - i;
        assert_true(wrap_print(&w, text + i, left < step ? left : step, COLUMNS));
    }
    fclose(out);
    int rows = draw(printed, n);
    for (int row = 0; row < rows; row++) {
        size_t length = strlen(screen[row]);
        while (length > 0 && screen[row][length - 1] == ' ') {
            length--;
        }
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.*s", row ? "|" : "", (int)length,
            screen[row]);
    }
    assert_string_equal(got, want);
    free(printed);
}

static void test_words_move_to_the_next_line(void **state)
{
    static const char *const cases[][2] = {
        {"the quick brown fox", "the quick|brown fox"},
        {"one two three four", "one two|three four"},
        {"1234567890 12", "1234567890|12"},
        {"123456789 abc", "123456789|abc"},
        {"12345 67890 x", "12345|67890 x"},
        {"12345 7890 x", "12345 7890|x"},
        {"a\nb  c\n\nd", "a|b  c||d"},
        {"abcdefghijklmno pq", "abcdefghij|klmno pq"}, /* wider than the screen */
        {"a abcdefghijklmno", "a|abcdefghij|klmno"},
        {"an apple, a banana", "an apple,|a banana"},
        {"x\ttab", "x|tab"},
        {"```\nint a; int b;\n```\nand words here", "```|int a; int| b;|```|and words|here"},
        {"  ``` c\nvery long line\n```", "  ``` c|very long|line|```"},
        {"a `code` and some", "a `code`|and some"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t step = 1; step < 20; step++) {
            check(cases[i][0], step, cases[i][1]);
        }
    }
}

/* The bytes that are printed for characters of two columns, and of none. */
static void test_widths(void **state)
{
    (void)state;
    if (!setlocale(LC_CTYPE, "C.UTF-8")) {
        skip();
    }
    char *printed = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&printed, &n);
    struct wrap w = {.out = out};
    assert_true(wrap_print(&w, "\xe4\xb8\x96\xe7\x95\x8c", 6, COLUMNS)); /* two ideographs */
    assert_int_equal(w.column, 4);
    assert_true(wrap_print(&w, "e\xcc\x81", 3, COLUMNS)); /* e with a combining accent */
    assert_int_equal(w.column, 5);
    assert_true(wrap_print(&w, "\xe4\xb8\x96\xe4\xb8\x96\xe4\xb8\x96", 9, COLUMNS));
    assert_int_equal(w.column, 2);
    assert_true(wrap_print(&w, "\xff", 1, COLUMNS)); /* invalid, yet printed */
    fclose(out);
    assert_int_equal(n, 19);
    free(printed);
    setlocale(LC_CTYPE, "C");
}

static void test_without_a_terminal_nothing_changes(void **state)
{
    (void)state;
    char *printed = NULL;
    size_t n = 0;
    const char *text = "the quick brown fox jumps over\nthe lazy dog";
    FILE *out = open_memstream(&printed, &n);
    struct wrap w = {.out = out};
    assert_true(wrap_print(&w, text, strlen(text), 0));
    fclose(out);
    assert_string_equal(printed, text);
    free(printed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_move_to_the_next_line),
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_without_a_terminal_nothing_changes),
    };
    return cmocka_run_group_tests_name("wrap", tests, NULL, NULL);
}
