/* names.c - open addressing with linear probing; the table is at most half full. */
#include "model/names.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct name_entry {
    const char *s; /* NULL: free */
    uint32_t length;
    int index;
};

struct fb_names {
    size_t mask; /* table size - 1; the size is a power of two */
    size_t capacity;
    int count;
    struct name_entry table[];
};

struct fb_names *fb_names_new(size_t capacity)
{
    size_t size = 8;
    while (size < 2 * capacity) {
        size *= 2;
    }
    struct fb_names *names = calloc(1, sizeof *names + size * sizeof names->table[0]);
    if (names) {
        names->mask = size - 1;
        names->capacity = capacity;
    }
    return names;
}

void fb_names_free(struct fb_names *names)
{
    free(names);
}

/* FNV-1a. */
static uint64_t hash(const char *s, size_t length)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) {
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    }
    return h ^ h >> 32;
}

/* Position of the name, or of the free entry where it would be added. */
static size_t probe(const struct fb_names *names, const char *s, size_t length)
{
    size_t i = hash(s, length) & names->mask;
    for (;; i = (i + 1) & names->mask) {
        const struct name_entry *e = &names->table[i];
        if (!e->s || (e->length == length && memcmp(e->s, s, length) == 0)) {
            return i;
        }
    }
}

int fb_names_add(struct fb_names *names, const char *s, size_t length)
{
    struct name_entry *e = &names->table[probe(names, s, length)];
    if (e->s) {
        return e->index;
    }
    FB_ASSERT((size_t)names->count < names->capacity);
    *e = (struct name_entry){s, (uint32_t)length, names->count++};
    return -1;
}

int fb_names_find(const struct fb_names *names, const char *s, size_t length)
{
    const struct name_entry *e = &names->table[probe(names, s, length)];
    return e->s ? e->index : -1;
}
