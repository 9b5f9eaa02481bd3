/*
 * buffer.h - bytes that grow.
 *
 * Invariants, from initialization to release and after every call:
 *   - `data` is never NULL, and data[n] is 0: it can always be read as a C string.
 *   - While `cap` is 0, `data` is a constant "" and nothing needs to be released.
 * Callers may read all fields and change data[0] to data[n - 1]; `n` is changed by functions only.
 *
 *      struct fb_buffer b = FB_BUFFER_INIT;
 *      fb_buffer_print(&b, "n=%d", n);
 *      puts(b.data);
 *      fb_buffer_release(&b);
 *
 * Not thread-safe. Out of memory is a bug (fb_xrealloc).
 */
#ifndef FB_SERVE_BUFFER_H
#define FB_SERVE_BUFFER_H

#include <jansson.h>
#include <stddef.h>

struct fb_buffer {
    char *data;
    size_t n;   /* bytes, without the terminator */
    size_t cap; /* allocated bytes */
};

#define FB_BUFFER_INIT                                                                             \
    {                                                                                              \
        .data = (char *)""                                                                         \
    }

/* --- Life cycle ---------------------------------------------------------------------------- */

/* The same as FB_BUFFER_INIT, for a buffer that is already declared. */
void fb_buffer_init(struct fb_buffer *buffer);
/* Frees the bytes; the buffer is empty afterwards and may be used again. */
void fb_buffer_release(struct fb_buffer *buffer);
/* Returns the bytes, to be freed with free(); stores their number in *n. The buffer is empty
 * afterwards. */
char *fb_buffer_detach(struct fb_buffer *buffer, size_t *n);
/* Empties the buffer, but keeps its memory. */
void fb_buffer_clear(struct fb_buffer *buffer);

/* --- Content ------------------------------------------------------------------------------- */

void fb_buffer_add(struct fb_buffer *buffer, const void *bytes, size_t n);
void fb_buffer_print(struct fb_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Adds a value in its compact form, and releases the caller's reference to it. */
void fb_buffer_json(struct fb_buffer *buffer, json_t *value);

/* A JSON string of bytes that may not be valid UTF-8. If they are not, each byte that is not ASCII
 * becomes '?'. New reference, never NULL. */
json_t *fb_json_text(const char *text, size_t n);

#endif
