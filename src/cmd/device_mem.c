/* device_mem.c - the value of --device-mem. */
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cmd/shared_options.h"

#define LONGEST 32

static bool parse_one(const char *text, size_t length, uint64_t *out)
{
    char size[LONGEST];
    if (length >= sizeof size) {
        return false;
    }
    snprintf(size, sizeof size, "%.*s", (int)length, text);
    return fb_parse_size(size, out) && *out >= 1 && *out < UINT64_C(1) << 62;
}

const char *cmd_device_mem(const char *text, void *target)
{
    struct forebay_model_options *o = target;
    int n = 0;
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        if (n == FOREBAY_DEVICES || !parse_one(at, length, &o->device_mem_bytes[n])) {
            return "sizes like 512M or 4G, separated by commas";
        }
        n++;
        at += length;
        if (!*at) {
            o->n_device_mem = n;
            return NULL;
        }
    }
}
