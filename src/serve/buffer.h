/* buffer.h - bytes that grow. Zero it before use. */
#ifndef FB_SERVE_BUFFER_H
#define FB_SERVE_BUFFER_H

#include <jansson.h>
#include <stddef.h>

struct fb_buffer {
    char *data;
    size_t n, cap;
};

void fb_buffer_add(struct fb_buffer *buffer, const void *bytes, size_t n);
void fb_buffer_print(struct fb_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Adds a value in its compact form, and takes the reference. */
void fb_buffer_json(struct fb_buffer *buffer, json_t *value);
void fb_buffer_release(struct fb_buffer *buffer);

/* A JSON string of bytes that may not be valid UTF-8: those that are not become '?'. */
json_t *fb_json_text(const char *text, size_t n);

#endif
