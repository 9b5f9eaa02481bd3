/*
 * error.h - the world's failures and the user's mistakes, as values.
 *
 * Three paths, never mixed: a bug of ours is FB_BUG / FB_ASSERT (abort with a report), the world's
 * failure is a status with a message and a remedy, the user's mistake is FOREBAY_E_USAGE with the
 * same shape (the command line turns it into exit code 2).
 */
#ifndef FB_BASE_ERROR_H
#define FB_BASE_ERROR_H

#include "forebay.h"

/* Fills *err (if not NULL) and returns `status`, so that `return fb_fail(err, ...)` reads well.
 * `hint` is a complete sentence or "". The message is cut to the field, never overrun. */
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

/* malloc/calloc/realloc that never return NULL (FB_BUG when the address space is exhausted).
 * For small bookkeeping; anything sized by a file or a budget is allocated with a status. */
void *fb_xmalloc(size_t size);
void *fb_xcalloc(size_t count, size_t size);
void *fb_xrealloc(void *p, size_t size);
char *fb_xstrdup(const char *s);

#endif
