/* meta.c - see meta.h. */
#include "model/meta.h"

#include <stdio.h>
#include <string.h>

#include "gguf.h"

/* Element i of the integers at `data`; false for other types and negative values. */
static bool integer_at(enum gguf_type type, const void *data, size_t i, uint64_t *out)
{
    int64_t value;
    switch (type) {
    case GGUF_TYPE_UINT8:
        value = ((const uint8_t *)data)[i];
        break;
    case GGUF_TYPE_INT8:
        value = ((const int8_t *)data)[i];
        break;
    case GGUF_TYPE_UINT16:
        value = ((const uint16_t *)data)[i];
        break;
    case GGUF_TYPE_INT16:
        value = ((const int16_t *)data)[i];
        break;
    case GGUF_TYPE_UINT32:
        value = ((const uint32_t *)data)[i];
        break;
    case GGUF_TYPE_INT32:
        value = ((const int32_t *)data)[i];
        break;
    case GGUF_TYPE_UINT64:
    case GGUF_TYPE_INT64:
        value = ((const int64_t *)data)[i];
        break;
    default:
        return false;
    }
    *out = (uint64_t)value;
    return value >= 0;
}

uint64_t fb_meta_uint(const struct gguf_context *meta, const char *key, uint64_t fallback)
{
    int64_t id = gguf_find_key(meta, key);
    if (id < 0 || gguf_get_kv_type(meta, id) == GGUF_TYPE_STRING) {
        return fallback;
    }
    bool array = gguf_get_kv_type(meta, id) == GGUF_TYPE_ARRAY;
    enum gguf_type type = array ? gguf_get_arr_type(meta, id) : gguf_get_kv_type(meta, id);
    if (type == GGUF_TYPE_STRING) {
        return fallback;
    }
    const void *data = array ? gguf_get_arr_data(meta, id) : gguf_get_val_data(meta, id);
    size_t n = array ? gguf_get_arr_n(meta, id) : 1;
    uint64_t largest = 0, value;
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        if (integer_at(type, data, i, &value)) {
            largest = !found || value > largest ? value : largest;
            found = true;
        }
    }
    return found ? largest : fallback;
}

uint64_t fb_meta_arch_uint(
    const struct gguf_context *meta, const char *arch, const char *name, uint64_t fallback)
{
    char key[160];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    uint64_t value = fb_meta_uint(meta, key, fallback);
    return value < INT32_MAX ? value : INT32_MAX;
}

void fb_meta_string(const struct gguf_context *meta, const char *key, char *buf, size_t cap)
{
    int64_t id = gguf_find_key(meta, key);
    bool is_string = id >= 0 && gguf_get_kv_type(meta, id) == GGUF_TYPE_STRING;
    snprintf(buf, cap, "%s", is_string ? gguf_get_val_str(meta, id) : "");
}
