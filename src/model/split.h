/*
 * split.h - the file names of a split set, as llama-gguf-split writes them:
 * PREFIX-00001-of-00003.gguf, PREFIX-00002-of-00003.gguf, ...
 */
#ifndef FB_MODEL_SPLIT_H
#define FB_MODEL_SPLIT_H

#include <stdbool.h>

/* True when `path` is named as part `no` (from 0) of `count`. */
bool fb_split_is_named(const char *path, int no, int count);

/* Path of part `no`, derived from the path of any part of the set. NULL when `path` is not named as
 * a part of `count`. The caller frees it. */
char *fb_split_path(const char *path, int no, int count);

#endif
