/* buffer.h - bytes that grow. Zero it before use. */
#ifndef ST_SERVE_BUFFER_H
#define ST_SERVE_BUFFER_H

#include <jansson.h>
#include <stddef.h>

struct st_buffer {
    char *data;
    size_t n, cap;
};

void st_buffer_add(struct st_buffer *buffer, const void *bytes, size_t n);
void st_buffer_print(struct st_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Adds a value in its compact form, and takes the reference. */
void st_buffer_json(struct st_buffer *buffer, json_t *value);
void st_buffer_release(struct st_buffer *buffer);

/* A JSON string of bytes that may not be valid UTF-8: those that are not become '?'. */
json_t *st_json_text(const char *text, size_t n);

#endif
