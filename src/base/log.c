#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static enum forebay_log_level threshold = FOREBAY_LOG_WARN;
static forebay_log_sink log_sink;
static void *log_user;

void forebay_log_set_level(enum forebay_log_level level)
{
    threshold = level;
}

void forebay_log_set_sink(forebay_log_sink sink, void *user)
{
    log_sink = sink;
    log_user = user;
}

bool fb_log_enabled(enum forebay_log_level level)
{
    return level <= threshold;
}

void fb_log(enum forebay_log_level level, const char *format, ...)
{
    static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
    if (!fb_log_enabled(level)) {
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
        fprintf(stderr, "forebay: %s%s\n", prefix[level], line);
    }
}
