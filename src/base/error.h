/*
 * error.h - the world's failures and the user's mistakes, as values.
 *
 * Three paths, never mixed: a bug of ours is ST_BUG / ST_ASSERT (abort with a report), the world's
 * failure is a status with a message and a remedy, the user's mistake is STRATA_E_USAGE with the
 * same shape (the command line turns it into exit code 2).
 */
#ifndef ST_BASE_ERROR_H
#define ST_BASE_ERROR_H

#include "strata.h"

/* Fills *err (if not NULL) and returns `status`, so that `return st_fail(err, ...)` reads well.
 * `hint` is a complete sentence or "". The message is cut to the field, never overrun. */
enum strata_status st_fail(struct strata_error *err, enum strata_status status, const char *hint,
    const char *format, ...) __attribute__((format(printf, 4, 5)));

/* As st_fail, and appends ": " and the text of the errno value `errnum`. */
enum strata_status st_fail_errno(struct strata_error *err, enum strata_status status, int errnum,
    const char *hint, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Reports a bug of ours on stderr and aborts. */
void st_bug(const char *file, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

#define ST_BUG(...) st_bug(__FILE__, __LINE__, __VA_ARGS__)
/* Stays in release builds: memory safety depends on some of these. */
#define ST_ASSERT(cond) ((cond) ? (void)0 : ST_BUG("assertion failed: %s", #cond))

/* malloc/calloc/realloc that never return NULL (ST_BUG when the address space is exhausted).
 * For small bookkeeping; anything sized by a file or a budget is allocated with a status. */
void *st_xmalloc(size_t size);
void *st_xcalloc(size_t count, size_t size);
void *st_xrealloc(void *p, size_t size);
char *st_xstrdup(const char *s);

#endif
