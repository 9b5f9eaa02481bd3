#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static enum strata_log_level threshold = STRATA_LOG_WARN;
static strata_log_sink log_sink;
static void *log_user;

void strata_log_set_level(enum strata_log_level level)
{
    threshold = level;
}

void strata_log_set_sink(strata_log_sink sink, void *user)
{
    log_sink = sink;
    log_user = user;
}

bool st_log_enabled(enum strata_log_level level)
{
    return level <= threshold;
}

void st_log(enum strata_log_level level, const char *format, ...)
{
    static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
    if (!st_log_enabled(level)) {
        return;
    }
    char line[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (log_sink) {
        log_sink(level, line, log_user);
    } else {
        fprintf(stderr, "strata: %s%s\n", prefix[level], line);
    }
}
