/*
 * error.h - errors as values, and assertions.
 *
 * Three paths, never mixed: a bug of ours is FB_BUG or FB_ASSERT (a report, then abort); a failure
 * of the system, a file or the network is a status with a message and a remedy; a mistake of the
 * caller is FOREBAY_E_USAGE, also with message and remedy (the command line turns it into exit code
 * 2). Thread-safe.
 */
#ifndef FB_BASE_ERROR_H
#define FB_BASE_ERROR_H

#include "forebay.h"

/* Fills *err (if not NULL) and returns `status`, so that `return fb_fail(err, ...)` reads well.
 * `hint` is a complete sentence or "". A message that is too long is truncated. */
enum forebay_status fb_fail(struct forebay_error *err, enum forebay_status status, const char *hint,
    const char *format, ...) __attribute__((format(printf, 4, 5)));

/* As fb_fail, and appends ": " and the text of the errno value `errnum`. */
enum forebay_status fb_fail_errno(struct forebay_error *err, enum forebay_status status, int errnum,
    const char *hint, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Reports a bug of ours on stderr and aborts. */
void fb_bug(const char *file, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

#define FB_BUG(...) fb_bug(__FILE__, __LINE__, __VA_ARGS__)
/* Stays in release builds: memory safety depends on some of these. */
#define FB_ASSERT(cond) ((cond) ? (void)0 : FB_BUG("assertion failed: %s", #cond))

/* malloc/calloc/realloc/strdup that never return NULL (FB_BUG when memory is exhausted). For small
 * bookkeeping; where a file or a budget determines the size, allocate and report
 * FOREBAY_E_NOMEM. */
void *fb_xmalloc(size_t size);
void *fb_xcalloc(size_t count, size_t size);
void *fb_xrealloc(void *p, size_t size);
char *fb_xstrdup(const char *s);

#endif
