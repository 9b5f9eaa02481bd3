/* utf8.h - prints text in whole characters, although tokens may end inside a UTF-8 character. */
#ifndef FB_CMD_UTF8_H
#define FB_CMD_UTF8_H

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

/* The first bytes of a character whose other bytes are still missing. Zero it before use. */
struct utf8_begun {
    char bytes[4];
    size_t n;
};

/* Prints the bytes in `begun` and n more, up to the last complete character; the rest is stored in
 * `begun`. Invalid bytes are printed unchanged. A character still incomplete when the text ends is
 * not printed. */
void utf8_print(struct utf8_begun *begun, const char *bytes, size_t n, FILE *out);

/* The text as a JSON string; if it is not valid UTF-8, each byte that is not ASCII becomes '?'. The
 * caller owns the result. */
json_t *utf8_json(const char *text);

#endif
