/*
 * json_text.c - see json_text.h. A text that jansson refuses is copied with replacements, token by
 * token, and parsed once more. What is not valid JSON is copied as it is.
 */
#include "serve/json_text.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "serve/buffer.h"

#define REPLACEMENT "\\ufffd"

/* --- Strings ------------------------------------------------------------------------------- */

/* The code unit of an escape such as "\ud83d" at `text`; -1: none is there. */
static int code_unit(const char *text, const char *end)
{
    char digits[5] = {0};
    if (end - text < 6 || text[0] != '\\' || text[1] != 'u') {
        return -1;
    }
    memcpy(digits, text + 2, 4);
    return strspn(digits, "0123456789abcdefABCDEF") == 4 ? (int)strtol(digits, NULL, 16) : -1;
}

static bool is_high(int unit)
{
    return unit >= 0xd800 && unit <= 0xdbff;
}

static bool is_low(int unit)
{
    return unit >= 0xdc00 && unit <= 0xdfff;
}

/* The end of the string that begins at `text`: behind its closing quote, or `end`. */
static const char *string_end(const char *text, const char *end)
{
    for (text++; text < end && *text != '"'; text++) {
        text += *text == '\\' && text + 1 < end;
    }
    return text < end ? text + 1 : end;
}

static bool is_name(const char *after, const char *end)
{
    while (after < end && strchr(" \t\r\n", *after) && *after) {
        after++;
    }
    return after < end && *after == ':';
}

/* Copies the string that begins at `text`. Returns its end. */
static const char *copy_string(struct fb_buffer *out, const char *text, const char *end)
{
    const char *last = string_end(text, end);
    bool name = is_name(last, end);
    while (text < last) {
        const char *escape = memchr(text, '\\', (size_t)(last - text));
        if (!escape) {
            break;
        }
        fb_buffer_add(out, text, (size_t)(escape - text));
        int unit = code_unit(escape, last);
        int next = unit >= 0 ? code_unit(escape + 6, last) : -1;
        size_t n = unit >= 0 ? 6 : last - escape >= 2 ? 2 : 1;
        if (is_high(unit) && is_low(next)) {
            n = 12;
            fb_buffer_add(out, escape, n);
        } else if (is_high(unit) || is_low(unit) || (unit == 0 && name)) {
            fb_buffer_add(out, REPLACEMENT, strlen(REPLACEMENT));
        } else {
            fb_buffer_add(out, escape, n);
        }
        text = escape + n;
    }
    fb_buffer_add(out, text, (size_t)(last - text));
    return last;
}

/* --- Numbers ------------------------------------------------------------------------------- */

/* Copies the number that begins at `text`. Returns its end. */
static const char *copy_number(struct fb_buffer *out, const char *text, const char *end)
{
    const char *last = text;
    bool whole = true;
    while (last < end && *last && strchr("+-.0123456789eE", *last)) {
        whole = whole && !strchr(".eE", *last);
        last++;
    }
    size_t n = (size_t)(last - text);
    char *copy = strndup(text, n), *stop;
    errno = 0;
    double real = strtod(copy, &stop);
    bool number = *stop == 0;
    if (number && isinf(real)) {
        fb_buffer_print(out, "%s1.7976931348623157e308", real < 0 ? "-" : "");
    } else {
        errno = 0;
        bool beyond = number && whole && (strtoll(copy, &stop, 10), errno == ERANGE);
        fb_buffer_add(out, text, n);
        fb_buffer_add(out, ".0", beyond ? 2 : 0);
    }
    free(copy);
    return last;
}

/* --- Texts --------------------------------------------------------------------------------- */

/* Copies a text with the replacements. */
static void copy_text(struct fb_buffer *out, const char *text, const char *end)
{
    while (text < end) {
        if (*text == '"') {
            text = copy_string(out, text, end);
        } else if (*text == '-' || (*text >= '0' && *text <= '9')) {
            text = copy_number(out, text, end);
        } else {
            const char *from = text;
            while (text < end && *text != '"' && *text != '-' && (*text < '0' || *text > '9')) {
                text++;
            }
            fb_buffer_add(out, from, (size_t)(text - from));
        }
    }
}

json_t *fb_json_parse(const char *text, size_t n, size_t flags, json_error_t *error)
{
    json_t *value = json_loadb(text, n, flags | JSON_ALLOW_NUL, error);
    if (!value) { /* the error, and its position, are those of the original text */
        struct fb_buffer copy = FB_BUFFER_INIT;
        copy_text(&copy, text, text + n);
        value = json_loadb(copy.data, copy.n, flags | JSON_ALLOW_NUL, NULL);
        fb_buffer_release(&copy);
    }
    return value;
}
