/* rename.c - see rename.h. */
#include "synth/rename.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#include "gguf.h"

static void copy_strings(struct gguf_context *out, const char *key, const struct gguf_context *from,
    int64_t id, size_t n)
{
    const char **strings = fb_xcalloc(n, sizeof *strings);
    for (size_t i = 0; i < n; i++) {
        strings[i] = gguf_get_arr_str(from, id, i);
    }
    gguf_set_arr_str(out, key, strings, n);
    free(strings);
}

static void copy_array(
    struct gguf_context *out, const char *key, const struct gguf_context *from, int64_t id)
{
    enum gguf_type type = gguf_get_arr_type(from, id);
    size_t n = gguf_get_arr_n(from, id);
    if (type == GGUF_TYPE_STRING) {
        copy_strings(out, key, from, id, n);
    } else {
        gguf_set_arr_data(out, key, type, gguf_get_arr_data(from, id), n);
    }
}

static void copy_value(
    struct gguf_context *out, const char *key, const struct gguf_context *from, int64_t id)
{
    switch (gguf_get_kv_type(from, id)) {
    case GGUF_TYPE_UINT8:
        gguf_set_val_u8(out, key, gguf_get_val_u8(from, id));
        break;
    case GGUF_TYPE_INT8:
        gguf_set_val_i8(out, key, gguf_get_val_i8(from, id));
        break;
    case GGUF_TYPE_UINT16:
        gguf_set_val_u16(out, key, gguf_get_val_u16(from, id));
        break;
    case GGUF_TYPE_INT16:
        gguf_set_val_i16(out, key, gguf_get_val_i16(from, id));
        break;
    case GGUF_TYPE_UINT32:
        gguf_set_val_u32(out, key, gguf_get_val_u32(from, id));
        break;
    case GGUF_TYPE_INT32:
        gguf_set_val_i32(out, key, gguf_get_val_i32(from, id));
        break;
    case GGUF_TYPE_FLOAT32:
        gguf_set_val_f32(out, key, gguf_get_val_f32(from, id));
        break;
    case GGUF_TYPE_BOOL:
        gguf_set_val_bool(out, key, gguf_get_val_bool(from, id));
        break;
    case GGUF_TYPE_STRING:
        gguf_set_val_str(out, key, gguf_get_val_str(from, id));
        break;
    case GGUF_TYPE_ARRAY:
        copy_array(out, key, from, id);
        break;
    case GGUF_TYPE_UINT64:
        gguf_set_val_u64(out, key, gguf_get_val_u64(from, id));
        break;
    case GGUF_TYPE_INT64:
        gguf_set_val_i64(out, key, gguf_get_val_i64(from, id));
        break;
    case GGUF_TYPE_FLOAT64:
        gguf_set_val_f64(out, key, gguf_get_val_f64(from, id));
        break;
    default:
        FB_BUG("key %s has a type that GGUF does not have", key);
    }
}

void fb_synth_copy_keys(struct gguf_context *to_meta, const struct gguf_context *from_meta,
    const char *from, const char *to)
{
    size_t length = strlen(from);
    int64_t n = gguf_get_n_kv(from_meta);
    for (int64_t i = 0; i < n; i++) {
        const char *key = gguf_get_key(from_meta, i);
        char renamed[256];
        if (strncmp(key, "split.", 6) == 0 || strcmp(key, "general.alignment") == 0) {
            continue;
        }
        if (strncmp(key, from, length) == 0 && key[length] == '.' &&
            (size_t)snprintf(renamed, sizeof renamed, "%s%s", to, key + length) < sizeof renamed) {
            key = renamed;
        }
        copy_value(to_meta, key, from_meta, i);
    }
    gguf_set_val_str(to_meta, "general.architecture", to);
}
