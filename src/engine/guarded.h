/* guarded.h - what C++ files need to call llama.cpp safely. See guard.h for C. */
#ifndef FB_ENGINE_GUARDED_H
#define FB_ENGINE_GUARDED_H

#include <functional>
#include <string>

#include "forebay.h"

/* Runs `call`. What it throws, an abort of ggml's on this thread, and a false result return false,
 * with the reason in `why`. May be nested in no other guarded call. */
bool fb_guarded(const std::function<bool()> &call, std::string &why);

/* The same as a status: `status` with "llama.cpp cannot WHAT: why". */
enum forebay_status fb_guarded_status(enum forebay_status status, struct forebay_error *err,
    const char *hint, const char *what, const std::function<bool()> &call);

#endif
