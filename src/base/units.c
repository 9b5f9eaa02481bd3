#include "base/units.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool fb_parse_size(const char *text, uint64_t *out)
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
    int power = 0;
    const char *letter = *unit ? strchr(letters, toupper((unsigned char)*unit)) : NULL;
    if (letter) {
        power = (int)(letter - letters) + 1;
        unit++;
        if (tolower((unsigned char)*unit) == 'i' && tolower((unsigned char)unit[1]) == 'b') {
            unit += 2;
        } else if (tolower((unsigned char)*unit) == 'b') {
            unit++;
        }
    } else if (tolower((unsigned char)*unit) == 'b') {
        unit++;
    }
    value = ldexp(value, 10 * power);
    if (*unit || !(value < 0x1p63)) {
        return false;
    }
    *out = (uint64_t)value;
    return true;
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
