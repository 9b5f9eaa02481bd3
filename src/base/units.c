#include "base/units.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Parses a number and a unit: a letter that counts in powers of `base` (1024 if an i follows), "B",
 * and `suffix`, each of which may be missing. */
static bool parse_quantity(const char *text, double base, const char *suffix, double *out)
{
    if (!text || (!isdigit((unsigned char)text[0]) && text[0] != '.')) {
        return false;
    }
    size_t digits = strspn(text, "0123456789.");
    char number[32];
    if (digits == 0 || digits >= sizeof number) {
        return false;
    }
    memcpy(number, text, digits);
    number[digits] = 0;
    char *end;
    double value = strtod(number, &end);
    if (*end) {
        return false;
    }
    const char *unit = text + digits;
    while (*unit == ' ') {
        unit++;
    }
    static const char letters[] = "KMGTPE";
    const char *letter = *unit ? strchr(letters, toupper((unsigned char)*unit)) : NULL;
    if (letter) {
        bool binary =
            tolower((unsigned char)unit[1]) == 'i' && tolower((unsigned char)unit[2]) == 'b';
        value *= pow(binary ? 1024 : base, (double)(letter - letters) + 1);
        unit += binary ? 2 : 1;
    }
    unit += tolower((unsigned char)*unit) == 'b';
    unit += strcmp(unit, suffix) == 0 ? strlen(suffix) : 0;
    if (*unit || !(value < 0x1p63)) {
        return false;
    }
    *out = value;
    return true;
}

bool fb_parse_size(const char *text, uint64_t *out)
{
    double value;
    return parse_quantity(text, 1024, "", &value) && (*out = (uint64_t)value, true);
}

bool fb_parse_rate(const char *text, uint64_t *out)
{
    double value;
    return parse_quantity(text, 1000, "/s", &value) && value >= 1 && (*out = (uint64_t)value, true);
}

const char *fb_format_rate(double bytes_per_s, char *buf, size_t cap)
{
    static const char *const unit[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
    int i = 0;
    for (; bytes_per_s >= 1000 && i < 4; i++) {
        bytes_per_s /= 1000;
    }
    snprintf(buf, cap, i == 0 || bytes_per_s >= 100 ? "%.0f %s" : "%.1f %s", bytes_per_s, unit[i]);
    return buf;
}

const char *fb_format_size(uint64_t bytes, char *buf, size_t cap)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int i = 0;
    double value = (double)bytes;
    while (value >= 1024 && i < 6) {
        value /= 1024;
        i++;
    }
    snprintf(buf, cap, i == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, unit[i]);
    return buf;
}

static uint64_t read_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t fb_now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t fb_thread_cpu_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
