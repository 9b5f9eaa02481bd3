/* units.h - sizes, durations and the clock. Pure except st_now_ns. Thread-safe. */
#ifndef ST_BASE_UNITS_H
#define ST_BASE_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_KIB ((uint64_t)1 << 10)
#define ST_MIB ((uint64_t)1 << 20)
#define ST_GIB ((uint64_t)1 << 30)

/* Parses "4G", "1.5GiB", "512m", "4096", "2 GB" (all powers of 1024, case-insensitive).
 * False, *out untouched, for anything else: empty, negative, overflow, trailing text. */
bool st_parse_size(const char *text, uint64_t *out);

/* "3.4 GiB", "512 MiB", "17 B". Returns `buf`. */
const char *st_format_size(uint64_t bytes, char *buf, size_t cap);
#define ST_SIZE(bytes) st_format_size((bytes), (char[24]){0}, 24)

/* Monotonic time in nanoseconds. */
uint64_t st_now_ns(void);

static inline uint64_t st_round_up(uint64_t n, uint64_t step)
{
    return (n + step - 1) / step * step;
}

static inline uint64_t st_round_down(uint64_t n, uint64_t step)
{
    return n / step * step;
}

static inline uint64_t st_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t st_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#endif
