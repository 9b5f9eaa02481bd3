/* log.h - log lines with a level, to the sink and above the level that forebay.h sets. Thread-safe
 * once these are set. */
#ifndef FB_BASE_LOG_H
#define FB_BASE_LOG_H

#include "forebay.h"

/* One line, without a newline; cut at 1023 bytes. */
void fb_log(enum forebay_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool fb_log_enabled(enum forebay_log_level level);

#define fb_warn(...)  fb_log(FOREBAY_LOG_WARN, __VA_ARGS__)
#define fb_info(...)  fb_log(FOREBAY_LOG_INFO, __VA_ARGS__)
#define fb_debug(...) fb_log(FOREBAY_LOG_DEBUG, __VA_ARGS__)

#endif
