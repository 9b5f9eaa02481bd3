/*
 * vocab.h - the tokenizer of synthetic models, the same for all. `n_vocab` counts all tokens:
 *
 *      0 .. n_words-1   "w0 ", "w1 ", ...   user-defined, so that text is split at them
 *      then             the 256 bytes, so that any text can be tokenized
 *      the last three   <unk>, <s>, </s>    (</s> ends a text; models give it no weight)
 *
 * No token is added to a prompt.
 */
#ifndef FB_SYNTH_VOCAB_H
#define FB_SYNTH_VOCAB_H

#include "synth/gguf_model.h"

#define FB_SYNTH_EXTRA_TOKENS 259 /* besides the words */

/* Adds the tokenizer's keys. n_vocab > FB_SYNTH_EXTRA_TOKENS. */
void fb_synth_vocab_add(struct fb_synth_model *model, int n_vocab);

#endif
