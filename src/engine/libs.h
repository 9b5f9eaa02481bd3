/* libs.h - finding and loading ggml's back ends, which are libraries loaded at run time. */
#ifndef FB_ENGINE_LIBS_H
#define FB_ENGINE_LIBS_H

#include "forebay.h"

/* Loads the CPU variant that suits this machine (and other back ends beside it) from the directory
 * of the libllama in use, or from where it was at build time. Idempotent. */
enum forebay_status fb_libs_load(struct forebay_error *err);

#endif
