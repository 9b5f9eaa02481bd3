#include "serve/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "serve/json_text.h"

void fb_fields_fail(struct fb_fields *f, const char *format, ...)
{
    if (!f->bad) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(f->message, sizeof f->message, format, ap);
        va_end(ap);
        f->bad = true;
    }
}

/* A value as a message quotes it: long strings are cut, lists and objects only named. */
static const char *quote(const json_t *value, char *buf, size_t cap)
{
    enum { STRING_MAX = 40 };
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    switch (json_typeof(value)) {
    case JSON_STRING:
        while (n > STRING_MAX || (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)) {
            n = n > STRING_MAX ? STRING_MAX : n - 1; /* not within a character */
        }
        snprintf(buf, cap, "\"%.*s%s\"", (int)n, text, text[n] ? "..." : "");
        break;
    case JSON_INTEGER:
        snprintf(buf, cap, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(buf, cap, "%g", json_real_value(value));
        break;
    default:
        snprintf(buf, cap, "%s",
            json_is_object(value)  ? "an object"
            : json_is_array(value) ? "a list"
            : json_is_true(value)  ? "true"
                                   : "false");
    }
    return buf;
}
#define QUOTE(value) quote((value), (char[64]){0}, 64)

json_t *fb_fields_parse(struct fb_fields *f, const char *body, size_t n)
{
    json_error_t error;
    json_t *value = n > 0 ? fb_json_parse(body, n, 0, &error) : NULL;
    *f = (struct fb_fields){0};
    if (n == 0) {
        fb_fields_fail(f, "the body is empty; it must be a JSON object");
    } else if (!value) {
        fb_fields_fail(f, "the body is not valid JSON: line %d, column %d: %s", error.line,
            error.column, error.text);
    } else if (!json_is_object(value)) {
        fb_fields_fail(f, "the body must be a JSON object, not %s",
            json_is_array(value) ? "a list" : "a single value");
        json_decref(value);
        value = NULL;
    }
    f->object = value;
    return value;
}

json_t *fb_field(const struct fb_fields *f, const char *name)
{
    json_t *value = json_object_get(f->object, name);
    return value && !json_is_null(value) ? value : NULL;
}

bool fb_field_bool(struct fb_fields *f, const char *name, bool otherwise)
{
    json_t *value = fb_field(f, name);
    if (value && !json_is_boolean(value)) {
        fb_fields_fail(f, "%s must be true or false, not %s", name, QUOTE(value));
    }
    return value ? json_is_true(value) : otherwise;
}

int64_t fb_field_int(
    struct fb_fields *f, const char *name, int64_t otherwise, int64_t min, int64_t max)
{
    json_t *value = fb_field(f, name);
    if (!value) {
        return otherwise;
    }
    double real = json_number_value(value);
    bool whole =
        json_is_integer(value) || (json_is_real(value) && floor(real) == real && fabs(real) < 9e15);
    int64_t number = json_is_integer(value) ? (int64_t)json_integer_value(value)
                     : whole                ? (int64_t)real
                                            : 0;
    if (!whole || number < min || number > max) {
        fb_fields_fail(f, "%s must be an integer from %lld to %lld, not %s", name, (long long)min,
            (long long)max, QUOTE(value));
        return otherwise;
    }
    return number;
}

double fb_field_number(
    struct fb_fields *f, const char *name, double otherwise, double min, double max)
{
    json_t *value = fb_field(f, name);
    if (!value) {
        return otherwise;
    }
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        fb_fields_fail(
            f, "%s must be a number from %g to %g, not %s", name, min, max, QUOTE(value));
        return otherwise;
    }
    return number;
}

const char *fb_field_string(struct fb_fields *f, const char *name, const char *otherwise)
{
    json_t *value = fb_field(f, name);
    if (value && !json_is_string(value)) {
        fb_fields_fail(f, "%s must be a string, not %s", name, QUOTE(value));
        return otherwise;
    }
    if (value && strlen(json_string_value(value)) != json_string_length(value)) {
        fb_fields_fail(f, "%s must not contain the character U+0000", name);
        return otherwise;
    }
    return value ? json_string_value(value) : otherwise;
}

json_t *fb_field_text(struct fb_fields *f, const char *name)
{
    json_t *value = fb_field(f, name);
    if (value && !json_is_string(value)) {
        fb_fields_fail(f, "%s must be a string, not %s", name, QUOTE(value));
        return NULL;
    }
    return value;
}

json_t *fb_field_array(struct fb_fields *f, const char *name)
{
    json_t *value = fb_field(f, name);
    if (value && !json_is_array(value)) {
        fb_fields_fail(f, "%s must be a list, not %s", name, QUOTE(value));
        return NULL;
    }
    return value;
}

json_t *fb_field_object(struct fb_fields *f, const char *name)
{
    json_t *value = fb_field(f, name);
    if (value && !json_is_object(value)) {
        fb_fields_fail(f, "%s must be an object, not %s", name, QUOTE(value));
        return NULL;
    }
    return value;
}
