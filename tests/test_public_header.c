/*
 * test_public_header.c - include/forebay.h stands alone, and its lists are complete.
 *
 * forebay.h comes first on purpose: nothing included before it can lend it a definition. Nothing
 * here needs more than ISO C11, so that the build may compile this file with -std=c11
 * -pedantic-errors. tests/header_cpp.cpp is the C++17 half.
 */
#include "forebay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(list) (sizeof(list) / sizeof(list)[0])

struct listed {
    const char *name;
    const char *text;
    int value;
};

#define STATUS_ENTRY(name, value, text) {#name, text, FOREBAY_##name},
static const struct listed statuses[] = {FOREBAY_STATUS_LIST(STATUS_ENTRY)};

#define STATS_ENTRY(type, name) #name,
static const char *const stats_keys[] = {FOREBAY_STATS_LIST(STATS_ENTRY)};

static void test_every_status_has_name_and_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(statuses); i++) {
        enum forebay_status status = (enum forebay_status)statuses[i].value;
        assert_int_equal(statuses[i].value, i); /* 0, 1, 2, ... without gaps */
        assert_string_equal(forebay_status_name(status), statuses[i].name);
        assert_string_equal(forebay_status_text(status), statuses[i].text);
        assert_true(strlen(statuses[i].text) > 0);
        assert_true(i == 0 || strncmp(statuses[i].name, "E_", 2) == 0);
    }
    assert_int_equal(FOREBAY_OK, 0); /* so that a zeroed forebay_error is none */
}

static void test_statuses_are_distinct(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(statuses); i++) {
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(statuses[i].name, statuses[j].name);
            assert_string_not_equal(statuses[i].text, statuses[j].text);
        }
    }
}

/* A program linked to an older library may pass a status that the library does not know. */
static void test_an_unknown_status_has_a_name(void **state)
{
    (void)state;
    const int unknown[] = {-1, (int)COUNT(statuses), 1 << 20};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        assert_string_equal(forebay_status_name((enum forebay_status)unknown[i]), "?");
        assert_string_equal(forebay_status_text((enum forebay_status)unknown[i]), "?");
    }
}

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Units are in the names: a key that is a count, time, size, speed or ratio says so. */
static void test_stats_keys_name_their_unit(void **state)
{
    (void)state;
    static const char *const ends[] = {"_per_s", "_s", "_bytes", "_cores", "_tokens", "_requests",
        "_hits", "_rate", "_ratio", "_utilisation", "_shrinks", "_grows", "_name", "_layers",
        "_slots", "_form"};
    for (size_t i = 0; i < COUNT(stats_keys); i++) {
        size_t end = 0;
        while (end < COUNT(ends) && !ends_in(stats_keys[i], ends[end])) {
            end++;
        }
        if (end == COUNT(ends)) {
            fail_msg("no unit in the name of %s", stats_keys[i]);
        }
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(stats_keys[i], stats_keys[j]);
        }
    }
}

/* docs/STATS.md beside this file's folder; NULL when the sources are not there. */
static FILE *open_docs(void)
{
    char path[4096];
    const char *slash = strrchr(__FILE__, '/');
    int folder = slash ? (int)(slash - __FILE__) : 1;
    snprintf(path, sizeof path, "%.*s/../docs/STATS.md", folder, slash ? __FILE__ : ".");
    return fopen(path, "r");
}

/* A row that starts with the key documents it; every row is of a key that exists. */
static void test_every_stats_key_is_documented(void **state)
{
    (void)state;
    int rows[COUNT(stats_keys)] = {0};
    char line[4096], key[64];
    FILE *docs = open_docs();
    if (!docs) {
        skip();
        return;
    }
    while (fgets(line, sizeof line, docs)) {
        size_t i = 0;
        if (sscanf(line, "| `%63[a-z_]` |", key) != 1) {
            continue;
        }
        while (i < COUNT(stats_keys) && strcmp(stats_keys[i], key) != 0) {
            i++;
        }
        if (i == COUNT(stats_keys)) {
            fail_msg("docs/STATS.md explains %s, which is not a key", key);
        }
        rows[i]++;
    }
    fclose(docs);
    for (size_t i = 0; i < COUNT(stats_keys); i++) {
        if (rows[i] != 1) {
            fail_msg("docs/STATS.md has %d rows for %s", rows[i], stats_keys[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_status_has_name_and_text),
        cmocka_unit_test(test_statuses_are_distinct),
        cmocka_unit_test(test_an_unknown_status_has_a_name),
        cmocka_unit_test(test_stats_keys_name_their_unit),
        cmocka_unit_test(test_every_stats_key_is_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
