/*
 * names.h - a hash table from names to the order in which they were added: 0, 1, ...
 *
 * Names are not copied; they must stay where they are. No removal, fixed capacity.
 */
#ifndef FB_MODEL_NAMES_H
#define FB_MODEL_NAMES_H

#include <stddef.h>

struct fb_names;

/* Room for `capacity` names. NULL when there is no memory. */
struct fb_names *fb_names_new(size_t capacity);
void fb_names_free(struct fb_names *names);

/* Adds the name with the next index and returns -1. Returns the index of a name that was added
 * before, and does not add it again. */
int fb_names_add(struct fb_names *names, const char *s, size_t length);

/* Index of the name, or -1. O(1) on average. */
int fb_names_find(const struct fb_names *names, const char *s, size_t length);

#endif
