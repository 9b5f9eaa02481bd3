/* libs.h - finds and loads ggml's back ends, which are libraries loaded at run time. */
#ifndef FB_ENGINE_LIBS_H
#define FB_ENGINE_LIBS_H

#include "forebay.h"

/* Loads the CPU variant that suits this machine and the other back ends beside it, from the
 * directory of the libllama in use, else from where it was at build time. Idempotent; not
 * thread-safe. E_UNSUPPORTED when there is no CPU variant. */
enum forebay_status fb_libs_load(struct forebay_error *err);

#endif
