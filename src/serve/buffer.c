#include "serve/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void fb_buffer_init(struct fb_buffer *b)
{
    *b = (struct fb_buffer)FB_BUFFER_INIT;
}

void fb_buffer_release(struct fb_buffer *b)
{
    if (b->cap > 0) {
        free(b->data);
    }
    fb_buffer_init(b);
}

/* Makes room for `n` more bytes and the terminator. */
static void reserve(struct fb_buffer *b, size_t n)
{
    if (b->n + n + 1 > b->cap) {
        size_t cap = 2 * (b->n + n) + 256;
        b->data = fb_xrealloc(b->cap > 0 ? b->data : NULL, cap);
        b->cap = cap;
        b->data[b->n] = 0;
    }
}

char *fb_buffer_detach(struct fb_buffer *b, size_t *n)
{
    reserve(b, 0);
    char *bytes = b->data;
    *n = b->n;
    fb_buffer_init(b);
    return bytes;
}

void fb_buffer_clear(struct fb_buffer *b)
{
    b->n = 0;
    if (b->cap > 0) {
        b->data[0] = 0;
    }
}

void fb_buffer_add(struct fb_buffer *b, const void *bytes, size_t n)
{
    if (n > 0) {
        reserve(b, n);
        memcpy(b->data + b->n, bytes, n);
        b->n += n;
        b->data[b->n] = 0;
    }
}

void fb_buffer_print(struct fb_buffer *b, const char *format, ...)
{
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    FB_ASSERT(n >= 0);
    reserve(b, (size_t)n);
    vsnprintf(b->data + b->n, (size_t)n + 1, format, again);
    va_end(again);
    b->n += (size_t)n;
}

static int add_dumped(const char *bytes, size_t n, void *buffer)
{
    fb_buffer_add(buffer, bytes, n);
    return 0;
}

void fb_buffer_json(struct fb_buffer *b, json_t *value)
{
    int rc = json_dump_callback(value, add_dumped, b, JSON_COMPACT | JSON_ENCODE_ANY);
    FB_ASSERT(rc == 0);
    json_decref(value);
}

json_t *fb_json_text(const char *text, size_t n)
{
    json_t *value = json_stringn(text, n);
    if (!value) {
        char *ascii = fb_xmalloc(n + 1);
        for (size_t i = 0; i < n; i++) {
            ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
        }
        value = json_stringn(ascii, n);
        free(ascii);
    }
    FB_ASSERT(value);
    return value;
}
