/* units.h - sizes, durations and the clock. Pure except the clocks. Thread-safe. */
#ifndef FB_BASE_UNITS_H
#define FB_BASE_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FB_KIB ((uint64_t)1 << 10)
#define FB_MIB ((uint64_t)1 << 20)
#define FB_GIB ((uint64_t)1 << 30)

/* The block of direct I/O: offsets, lengths and addresses of direct reads are multiples of it, and
 * so are the offsets of units in a sidecar. No disk or file system we know of needs more. */
#define FB_BLOCK_BYTES 4096u

/* Parses "4G", "1.5GiB", "512m", "4096", "2 GB" (all powers of 1024, case-insensitive).
 * False, with *out untouched, for anything else: empty, negative, overflow, trailing text. */
bool fb_parse_size(const char *text, uint64_t *out);

/* "3.4 GiB", "512 MiB", "17 B". Returns `buf`. */
const char *fb_format_size(uint64_t bytes, char *buf, size_t cap);
#define FB_SIZE(bytes) fb_format_size((bytes), (char[24]){0}, 24)

/* Rates count in powers of 1000, as vendors of disks do; sizes above, in powers of 1024.
 * fb_parse_rate: "1.8G", "550M", "2 GB/s"; with an i ("1GiB/s") powers of 1024. In bytes per
 * second, at least 1. False, *out untouched, for anything else. fb_format_rate: "1.8 GB/s". */
bool fb_parse_rate(const char *text, uint64_t *out);
const char *fb_format_rate(double bytes_per_s, char *buf, size_t cap);
#define FB_RATE(bytes_per_s) fb_format_rate((bytes_per_s), (char[24]){0}, 24)

/* Monotonic time in nanoseconds. */
uint64_t fb_now_ns(void);
/* Processor time that the calling thread has used, in nanoseconds. */
uint64_t fb_thread_cpu_ns(void);

/* To a multiple of `step` (> 0). */
static inline uint64_t fb_round_up(uint64_t n, uint64_t step)
{
    return (n + step - 1) / step * step;
}

static inline uint64_t fb_round_down(uint64_t n, uint64_t step)
{
    return n / step * step;
}

static inline uint64_t fb_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t fb_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#endif
