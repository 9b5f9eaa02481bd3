/* log.h - one way to talk: a level, a line, a sink. Thread-safe once the sink is set. */
#ifndef FB_BASE_LOG_H
#define FB_BASE_LOG_H

#include "forebay.h"

void fb_log(enum forebay_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool fb_log_enabled(enum forebay_log_level level);

#define fb_warn(...)  fb_log(FOREBAY_LOG_WARN, __VA_ARGS__)
#define fb_info(...)  fb_log(FOREBAY_LOG_INFO, __VA_ARGS__)
#define fb_debug(...) fb_log(FOREBAY_LOG_DEBUG, __VA_ARGS__)

#endif
