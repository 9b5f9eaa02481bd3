/*
 * json_text.h - reads JSON that jansson refuses although it is valid, and that clients send:
 *
 *      18446744073709551615   integers outside of int64_t become real numbers
 *      1e400                  real numbers outside of double become the largest double
 *      "\ud83d"               escapes of half a character become U+FFFD
 *      {"\u0000": 1}          a NUL in the name of a member becomes U+FFFD
 *
 * A NUL in any other string stays: such strings have a length, json_string_length. Thread-safe.
 */
#ifndef FB_SERVE_JSON_TEXT_H
#define FB_SERVE_JSON_TEXT_H

#include <jansson.h>

/* Parses n bytes. `flags` are jansson's. New reference, or NULL with *error (which may be NULL). */
json_t *fb_json_parse(const char *text, size_t n, size_t flags, json_error_t *error);

#endif
