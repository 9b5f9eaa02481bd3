/* log.h - one way to talk: a level, a line, a sink. Thread-safe once the sink is set. */
#ifndef ST_BASE_LOG_H
#define ST_BASE_LOG_H

#include "strata.h"

void st_log(enum strata_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool st_log_enabled(enum strata_log_level level);

#define st_warn(...)  st_log(STRATA_LOG_WARN, __VA_ARGS__)
#define st_info(...)  st_log(STRATA_LOG_INFO, __VA_ARGS__)
#define st_debug(...) st_log(STRATA_LOG_DEBUG, __VA_ARGS__)

#endif
