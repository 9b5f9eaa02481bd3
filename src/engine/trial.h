/*
 * trial.h - the first contact of llama.cpp with a model file, in a child process that may die.
 *
 * llama.cpp aborts on some files, where no exception can be thrown, or divides by zero. So a model
 * that it has not loaded before is first loaded in a child. Those that went well are remembered in
 * the cache directory, by the file as it is on the disk and the version of llama.cpp: usual starts
 * have no child.
 */
#ifndef FB_ENGINE_TRIAL_H
#define FB_ENGINE_TRIAL_H

#include "model/catalog.h"

/* Calls `call` in a child, unless the model is known. E_LLAMA with llama.cpp's last words when the
 * child died. An error that the call returns is not reported: the caller will see it again, with
 * what llama.cpp logs. Without a child (a limit on processes) nothing is tried. */
enum forebay_status fb_trial(const struct fb_catalog *catalog,
    enum forebay_status (*call)(void *user, struct forebay_error *err), void *user,
    struct forebay_error *err);

#endif
