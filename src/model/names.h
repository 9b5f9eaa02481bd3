/*
 * names.h - finds names: a hash table from strings to the indexes they were added with.
 *
 * Strings are not copied; they must stay where they are. Never removes, never grows.
 */
#ifndef FB_MODEL_NAMES_H
#define FB_MODEL_NAMES_H

#include <stddef.h>

struct fb_names;

/* Room for `capacity` names. NULL when memory is refused. */
struct fb_names *fb_names_new(size_t capacity);
void fb_names_free(struct fb_names *names);

/* Adds the name with the next index (0, 1, ...) and returns -1; a name that is there already is not
 * added and its index is returned. */
int fb_names_add(struct fb_names *names, const char *s, size_t length);

/* Index of the name, or -1. O(1) on average. */
int fb_names_find(const struct fb_names *names, const char *s, size_t length);

#endif
