/* test_fields.c - reading the JSON of requests: values, and messages for mistakes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/fields.h"

static void test_bodies(void **state)
{
    static const struct {
        const char *body;
        size_t n;
    } bad[] = {{"", 0}, {"{", 1}, {"[]", 2}, {"3", 1}, {"null", 4}, {"{\"a\":1} x", 9},
        {"{\"a\":\"\xff\"}", 9}, {"{\"a\":\"\0\"}", 9}, {"{\"a\":NaN}", 9}, {"{\"a\":-}", 7},
        {"{\"a\":1e}", 8}, {"{\"a\":01}", 8}, {"{\"a\":\"\\u00\"}", 12}, {"{\"a\":\"\\", 7},
        {"{\"a\":\"\\ud800", 12}, {"{\"a\":99999999999999999999", 25}};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct fb_fields f;
        json_t *object = fb_fields_parse(&f, bad[i].body, bad[i].n);
        if (object || !f.bad || !f.message[0]) {
            fail_msg("accepted: %s", bad[i].body);
        }
    }
    char deep[20000];
    memset(deep, '[', sizeof deep);
    struct fb_fields f;
    assert_null(fb_fields_parse(&f, deep, sizeof deep));
}

static json_t *parse(struct fb_fields *f, const char *text)
{
    json_t *object = fb_fields_parse(f, text, strlen(text));
    assert_non_null(object);
    return object;
}

static void test_values(void **state)
{
    (void)state;
    struct fb_fields f;
    json_t *o = parse(&f, "{\"i\":7,\"whole\":2.0,\"r\":0.5,\"s\":\"x\",\"t\":true,\"n\":null,"
                          "\"l\":[1],\"o\":{\"a\":1}}");
    assert_int_equal(fb_field_int(&f, "i", 1, 0, 10), 7);
    assert_int_equal(fb_field_int(&f, "whole", 1, 0, 10), 2);
    assert_int_equal(fb_field_int(&f, "n", 5, 0, 10), 5);
    assert_int_equal(fb_field_int(&f, "missing", 5, 0, 10), 5);
    assert_true(fb_field_number(&f, "r", 1, 0, 1) == 0.5);
    assert_true(fb_field_number(&f, "i", 1, 0, 10) == 7);
    assert_string_equal(fb_field_string(&f, "s", "y"), "x");
    assert_true(fb_field_bool(&f, "t", false));
    assert_true(fb_field_bool(&f, "n", true));
    assert_int_equal(json_array_size(fb_field_array(&f, "l")), 1);
    assert_int_equal(json_object_size(fb_field_object(&f, "o")), 1);
    assert_null(fb_field_array(&f, "n"));
    assert_false(f.bad);
    json_decref(o);
}

/* Valid JSON that jansson by itself refuses. */
static void test_extremes(void **state)
{
    static const struct {
        const char *value, *becomes;
    } texts[] = {
        {"\"a\\u0000b\"", "\"a\\u0000b\""},
        {"\"\\u0000\\ud800\\u0000\"", "\"\\u0000\\uFFFD\\u0000\""},
        {"\"\\uDBFF\\uDFFF\\uDBFF\"", "\"\\uDBFF\\uDFFF\\uFFFD\""},
        {"\"\\udc00 \\\\ud800\"", "\"\\uFFFD \\\\ud800\""},
        {"{\"\\u0000k\" : \"\\u0000v\"}", "{\"\\uFFFDk\":\"\\u0000v\"}"},
        {"9223372036854775807", "9223372036854775807"},
        {"9223372036854775808", "9.2233720368547758e18"},
        {"[18446744073709551615,-9223372036854775809]",
            "[1.8446744073709552e19,-9.2233720368547758e18]"},
        {"[1e400,-1e400,1e-400,1E999]",
            "[1.7976931348623157e308,-1.7976931348623157e308,0.0,1.7976931348623157e308]"},
        {"[\"1e400\",\"18446744073709551615\",1e400]",
            "[\"1e400\",\"18446744073709551615\",1.7976931348623157e308]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char body[256];
        struct fb_fields f;
        size_t n = (size_t)snprintf(body, sizeof body, "{\"x\":%s}", texts[i].value);
        json_t *object = fb_fields_parse(&f, body, n);
        if (!object) {
            fail_msg("%s: %s", texts[i].value, f.message);
        }
        char *text = json_dumps(
            json_object_get(object, "x"), JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
        assert_string_equal(text, texts[i].becomes);
        free(text);
        json_decref(object);
    }
}

/* A NUL does not cut what is read as text, and is no part of a name. */
static void test_nul(void **state)
{
    (void)state;
    struct fb_fields f;
    json_t *o = parse(&f, "{\"t\":\"a\\u0000b\",\"n\":null}");
    assert_int_equal(json_string_length(fb_field_text(&f, "t")), 3);
    assert_null(fb_field_text(&f, "n"));
    assert_false(f.bad);
    assert_string_equal(fb_field_string(&f, "t", "z"), "z");
    assert_string_equal(f.message, "t must not contain the character U+0000");
    json_decref(o);
}

static void check_bad(const char *text, const char *says, void (*read)(struct fb_fields *f))
{
    struct fb_fields f;
    json_t *o = parse(&f, text);
    read(&f);
    assert_true(f.bad);
    assert_string_equal(f.message, says);
    json_decref(o);
}

static void read_int(struct fb_fields *f)
{
    fb_field_int(f, "x", 1, 0, 10);
}

static void read_number(struct fb_fields *f)
{
    fb_field_number(f, "x", 1, 0, 1);
}

static void read_others(struct fb_fields *f)
{
    fb_field_bool(f, "x", false);
    fb_field_string(f, "x", NULL); /* the first mistake is reported */
}

static void test_mistakes(void **state)
{
    (void)state;
    static const struct {
        const char *value, *quoted;
    } no_int[] = {{"11", "11"}, {"-1", "-1"}, {"1.5", "1.5"}, {"1e300", "1e+300"},
        {"9223372036854775807", "9223372036854775807"}, {"\"3\"", "\"3\""}, {"true", "true"},
        {"[]", "a list"}, {"{}", "an object"},
        {"\"\u00e42345678901234567890123456789012345678\u00e40\"", /* cut at a character */
            "\"\u00e42345678901234567890123456789012345678...\""}};
    for (size_t i = 0; i < sizeof no_int / sizeof *no_int; i++) {
        char text[128], says[128];
        snprintf(text, sizeof text, "{\"x\":%s}", no_int[i].value);
        snprintf(says, sizeof says, "x must be an integer from 0 to 10, not %s", no_int[i].quoted);
        check_bad(text, says, read_int);
    }
    check_bad("{\"x\":1.01}", "x must be a number from 0 to 1, not 1.01", read_number);
    check_bad("{\"x\":[]}", "x must be a number from 0 to 1, not a list", read_number);
    check_bad("{\"x\":1}", "x must be true or false, not 1", read_others);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
