#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill(struct forebay_error *err, enum forebay_status status, const char *hint,
    const char *format, va_list ap, int errnum)
{
    if (!err) {
        return;
    }
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, ap);
    if (errnum) {
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used, ": %s", strerror(errnum));
    }
    snprintf(err->hint, sizeof err->hint, "%s", hint ? hint : "");
}

enum forebay_status fb_fail(struct forebay_error *err, enum forebay_status status, const char *hint,
    const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fill(err, status, hint, format, ap, 0);
    va_end(ap);
    return status;
}

enum forebay_status fb_fail_errno(struct forebay_error *err, enum forebay_status status, int errnum,
    const char *hint, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fill(err, status, hint, format, ap, errnum);
    va_end(ap);
    return status;
}

void fb_bug(const char *file, int line, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "forebay: bug at %s:%d: ", file, line);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\nPlease report this with the command you ran.\n");
    va_end(ap);
    abort();
}

void *fb_xmalloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p) {
        FB_BUG("out of memory for %zu bytes of bookkeeping", size);
    }
    return p;
}

void *fb_xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) {
        FB_BUG("out of memory for %zu x %zu bytes of bookkeeping", count, size);
    }
    return p;
}

void *fb_xrealloc(void *p, size_t size)
{
    p = realloc(p, size ? size : 1);
    if (!p) {
        FB_BUG("out of memory for %zu bytes of bookkeeping", size);
    }
    return p;
}

char *fb_xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(fb_xmalloc(n), s, n);
}

#define STATUS_NAME(name, value, text)                                                             \
    case FOREBAY_##name:                                                                           \
        return #name;
#define STATUS_TEXT(name, value, text)                                                             \
    case FOREBAY_##name:                                                                           \
        return text;

const char *forebay_status_name(enum forebay_status status)
{
    switch (status) {
        FOREBAY_STATUS_LIST(STATUS_NAME)
    }
    return "?";
}

const char *forebay_status_text(enum forebay_status status)
{
    switch (status) {
        FOREBAY_STATUS_LIST(STATUS_TEXT)
    }
    return "?";
}
