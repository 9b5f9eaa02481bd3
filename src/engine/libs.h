/* libs.h - finding and loading ggml's back ends, which are libraries loaded at run time. */
#ifndef ST_ENGINE_LIBS_H
#define ST_ENGINE_LIBS_H

#include "strata.h"

/* Loads the CPU variant that suits this machine (and other back ends beside it) from the directory
 * of the libllama in use, or from where it was at build time. Idempotent. */
enum strata_status st_libs_load(struct strata_error *err);

#endif
