/*
 * names.h - finds names: a hash table from strings to the indexes they were added with.
 *
 * Strings are not copied; they must stay where they are. Never removes, never grows.
 */
#ifndef ST_MODEL_NAMES_H
#define ST_MODEL_NAMES_H

#include <stddef.h>

struct st_names;

/* Room for `capacity` names. NULL when memory is refused. */
struct st_names *st_names_new(size_t capacity);
void st_names_free(struct st_names *names);

/* Adds the name with the next index (0, 1, ...) and returns -1; a name that is there already is not
 * added and its index is returned. */
int st_names_add(struct st_names *names, const char *s, size_t length);

/* Index of the name, or -1. O(1) on average. */
int st_names_find(const struct st_names *names, const char *s, size_t length);

#endif
