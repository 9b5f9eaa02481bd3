#include "serve/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static void reserve(struct st_buffer *b, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n) + 256;
        b->data = st_xrealloc(b->data, b->cap);
    }
}

void st_buffer_add(struct st_buffer *b, const void *bytes, size_t n)
{
    if (n > 0) {
        reserve(b, n);
        memcpy(b->data + b->n, bytes, n);
        b->n += n;
    }
}

void st_buffer_print(struct st_buffer *b, const char *format, ...)
{
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    ST_ASSERT(n >= 0);
    reserve(b, (size_t)n + 1);
    vsnprintf(b->data + b->n, (size_t)n + 1, format, again);
    va_end(again);
    b->n += (size_t)n;
}

static int add_piece(const char *bytes, size_t n, void *buffer)
{
    st_buffer_add(buffer, bytes, n);
    return 0;
}

void st_buffer_json(struct st_buffer *b, json_t *value)
{
    int rc = json_dump_callback(value, add_piece, b, JSON_COMPACT | JSON_ENCODE_ANY);
    ST_ASSERT(rc == 0);
    json_decref(value);
}

void st_buffer_release(struct st_buffer *b)
{
    free(b->data);
    *b = (struct st_buffer){0};
}

json_t *st_json_text(const char *text, size_t n)
{
    json_t *value = json_stringn(text, n);
    if (!value) {
        char *ascii = st_xmalloc(n + 1);
        for (size_t i = 0; i < n; i++) {
            ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
        }
        value = json_stringn(ascii, n);
        free(ascii);
    }
    ST_ASSERT(value);
    return value;
}
