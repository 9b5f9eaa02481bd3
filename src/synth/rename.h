/* rename.h - copies the key-values of one model to another of a different architecture. */
#ifndef FB_SYNTH_RENAME_H
#define FB_SYNTH_RENAME_H

struct gguf_context; /* gguf.h */

/* Copies all keys, "FROM.x" as "TO.x" and general.architecture as TO, except those that describe
 * the file (split.*, general.alignment). */
void fb_synth_copy_keys(struct gguf_context *to_meta, const struct gguf_context *from_meta,
    const char *from, const char *to);

#endif
