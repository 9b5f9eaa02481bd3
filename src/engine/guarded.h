/* guarded.h - what C++ files need to call llama.cpp safely. See guard.h for C. */
#ifndef ST_ENGINE_GUARDED_H
#define ST_ENGINE_GUARDED_H

#include <functional>
#include <string>

#include "strata.h"

/* Runs `call`. What it throws, an abort of ggml's on this thread, and a false result return false,
 * with the reason in `why`. May be nested in no other guarded call. */
bool st_guarded(const std::function<bool()> &call, std::string &why);

/* The same as a status: `status` with "llama.cpp cannot WHAT: why". */
enum strata_status st_guarded_status(enum strata_status status, struct strata_error *err,
    const char *hint, const char *what, const std::function<bool()> &call);

#endif
