/* utf8.h - prints text in whole characters, although tokens may end inside a UTF-8 character, and
 * without characters that control a terminal. */
#ifndef FB_CMD_UTF8_H
#define FB_CMD_UTF8_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* The first bytes of a character whose other bytes are still missing. Zero it before use, except
 * `clean`. */
struct utf8_begun {
    char bytes[4];
    size_t n;
    bool clean; /* print as utf8_clean makes it; for terminals */
};

/* Prints the bytes in `begun` and n more, up to the last complete character; the rest is stored in
 * `begun`. Invalid bytes are printed unchanged. A character still incomplete when the text ends is
 * not printed. */
void utf8_print(struct utf8_begun *begun, const char *bytes, size_t n, FILE *out);

/* Replaces control characters (C0, DEL and C1) in place by '?', except newline and tab; removes
 * carriage returns. Bytes 0x80 to 0x9f outside a valid character count as C1: terminals that do
 * not use UTF-8 take them as such. The text is whole characters; returns its new length. */
size_t utf8_clean(char *text, size_t n);

/* The text as a JSON string; if it is not valid UTF-8, each byte that is not ASCII becomes '?'. The
 * caller owns the result. */
json_t *utf8_json(const char *text);

#endif
