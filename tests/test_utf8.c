/* test_utf8.c - text in arbitrary pieces is printed completely, and only in whole characters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/utf8.c" /* the program is not a library */

/* Prints `text` in pieces; bit i of `cuts` ends a piece after byte i. Checks after each piece that
 * no character was cut. Returns the output. */
static char *print_in_pieces(const char *text, uint32_t cuts)
{
    struct utf8_begun begun = {0};
    char *printed = NULL;
    size_t n_printed = 0, from = 0, size = strlen(text);
    FILE *out = open_memstream(&printed, &n_printed);
    assert_non_null(out);
    for (size_t i = 0; i < size; i++) {
        if (cuts >> i & 1 || i + 1 == size) {
            utf8_print(&begun, text + from, i + 1 - from, out);
            from = i + 1;
            fflush(out);
            assert_int_equal(n_printed + begun.n, from);
            assert_true(begun.n == 0 || !continues(text[n_printed]));
        }
    }
    fclose(out);
    return printed;
}

/* Checks that `want` is printed however `text` is cut into pieces. */
static void check(const char *text, const char *want)
{
    assert_in_range(strlen(text), 1, 16);
    for (uint32_t cuts = 0; cuts < 1u << strlen(text); cuts++) {
        char *printed = print_in_pieces(text, cuts);
        assert_string_equal(printed, want);
        free(printed);
    }
}

static void test_characters_stay_whole(void **state)
{
    (void)state;
    check("a\xc3\xa9z", "a\xc3\xa9z");
    check("\xe2\x82\xac\xf0\x9f\x98\x80!", "\xe2\x82\xac\xf0\x9f\x98\x80!");
    check("\xf0\x9f\x98\x80\xf0\x9f\x98\x81\xc3\xa9", "\xf0\x9f\x98\x80\xf0\x9f\x98\x81\xc3\xa9");
}

static void test_an_incomplete_character_at_the_end_is_not_printed(void **state)
{
    (void)state;
    check("ab\xe2\x82", "ab");
    check("\xc3\xa9\xf0\x9f\x98", "\xc3\xa9");
}

static void test_invalid_bytes_are_printed_unchanged(void **state)
{
    (void)state;
    check("\x80\x80x\xe2\x82y", "\x80\x80x\xe2\x82y");
    check("\xe2\xe2\x41\xffz\xf0", "\xe2\xe2\x41\xffz");
    check("\xc3\xa9\xa9\xa9", "\xc3\xa9\xa9\xa9");
}

static void test_a_character_is_printed_with_its_last_byte(void **state)
{
    (void)state;
    struct utf8_begun begun = {0};
    FILE *out = tmpfile();
    assert_non_null(out);
    utf8_print(&begun, "\xe2\x82", 2, out);
    assert_int_equal(ftell(out), 0);
    utf8_print(&begun, "\xac", 1, out);
    assert_int_equal(ftell(out), 3);
    utf8_print(&begun, "ab", 2, out);
    assert_int_equal(ftell(out), 5);
    fclose(out);
}

/* Checks the text as a terminal gets it, printed at once and byte by byte. */
static void check_clean(const char *text, const char *want)
{
    for (size_t step = 1; step <= strlen(text); step += strlen(text) > 1 ? strlen(text) - 1 : 1) {
        struct utf8_begun begun = {.clean = true};
        char *printed = NULL;
        size_t n_printed = 0;
        FILE *out = open_memstream(&printed, &n_printed);
        for (size_t i = 0; i < strlen(text); i += step) {
            size_t left = strlen(text) - i;
            utf8_print(&begun, text + i, left < step ? left : step, out);
        }
        fclose(out);
        assert_string_equal(printed, want);
        free(printed);
    }
    char clean[64];
    snprintf(clean, sizeof clean, "%s", text);
    clean[utf8_clean(clean, strlen(clean))] = 0;
    assert_string_equal(clean, want);
}

static void test_a_terminal_gets_no_control_characters(void **state)
{
    (void)state;
    check_clean("a\tb\n \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
        "a\tb\n \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    check_clean("\033[2Jx\033]52;c;eA==\a", "?[2Jx?]52;c;eA==?");
    check_clean("line\r\nover\rwritten\b\x7f", "line\nover"
                                               "written??");
    check_clean("\xc2\x9b"
                "31m\xc2\x85\xc2\xa0",
        "?31m?\xc2\xa0"); /* C1, and a space */
    check_clean("\x9b"
                "31mx",
        "?31mx");                       /* C1 of 8-bit terminals */
    check_clean("\xc0\x9bx", "\xc0?x"); /* ESC, encoded too long */
    check_clean("\xe2\x9by", "\xe2?y"); /* cut off */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_characters_stay_whole),
        cmocka_unit_test(test_an_incomplete_character_at_the_end_is_not_printed),
        cmocka_unit_test(test_invalid_bytes_are_printed_unchanged),
        cmocka_unit_test(test_a_character_is_printed_with_its_last_byte),
        cmocka_unit_test(test_a_terminal_gets_no_control_characters),
    };
    return cmocka_run_group_tests_name("utf8", tests, NULL, NULL);
}
