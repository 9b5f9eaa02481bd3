/* rename.h - copies the key-values of one model to another, whose architecture has another name. */
#ifndef FB_SYNTH_RENAME_H
#define FB_SYNTH_RENAME_H

struct gguf_context; /* gguf.h */

/* Keys "FROM.x" become "TO.x", general.architecture becomes TO; what describes the
 * file (split.*, general.alignment) is left out. */
void fb_synth_copy_keys(struct gguf_context *to_meta, const struct gguf_context *from_meta,
    const char *from, const char *to);

#endif
