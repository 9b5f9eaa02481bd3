#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill(struct strata_error *err, enum strata_status status, const char *hint,
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

enum strata_status st_fail(
    struct strata_error *err, enum strata_status status, const char *hint, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fill(err, status, hint, format, ap, 0);
    va_end(ap);
    return status;
}

enum strata_status st_fail_errno(struct strata_error *err, enum strata_status status, int errnum,
    const char *hint, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fill(err, status, hint, format, ap, errnum);
    va_end(ap);
    return status;
}

void st_bug(const char *file, int line, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "strata: bug at %s:%d: ", file, line);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\nPlease report this with the command you ran.\n");
    va_end(ap);
    abort();
}

void *st_xmalloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p) {
        ST_BUG("out of memory for %zu bytes of bookkeeping", size);
    }
    return p;
}

void *st_xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) {
        ST_BUG("out of memory for %zu x %zu bytes of bookkeeping", count, size);
    }
    return p;
}

void *st_xrealloc(void *p, size_t size)
{
    p = realloc(p, size ? size : 1);
    if (!p) {
        ST_BUG("out of memory for %zu bytes of bookkeeping", size);
    }
    return p;
}

char *st_xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(st_xmalloc(n), s, n);
}

#define STATUS_NAME(name, value, text)                                                             \
    case STRATA_##name:                                                                            \
        return #name;
#define STATUS_TEXT(name, value, text)                                                             \
    case STRATA_##name:                                                                            \
        return text;

const char *strata_status_name(enum strata_status status)
{
    switch (status) {
        STRATA_STATUS_LIST(STATUS_NAME)
    }
    return "?";
}

const char *strata_status_text(enum strata_status status)
{
    switch (status) {
        STRATA_STATUS_LIST(STATUS_TEXT)
    }
    return "?";
}
