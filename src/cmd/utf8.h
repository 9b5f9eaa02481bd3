/* utf8.h - text arrives in tokens, which may end inside a character; what is printed never does. */
#ifndef FB_CMD_UTF8_H
#define FB_CMD_UTF8_H

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

/* The beginning of a character that is not whole yet. Zero it before use. */
struct utf8_begun {
    char bytes[4];
    size_t n;
};

/* Prints what was begun and n more bytes, up to the last whole character. Bytes that cannot be part
 * of one are printed as they are. What is begun when the text ends is never printed. */
void utf8_print(struct utf8_begun *begun, const char *bytes, size_t n, FILE *out);

/* The text as JSON; what is not ASCII becomes '?' if it is not all UTF-8. The caller's. */
json_t *utf8_json(const char *text);

#endif
