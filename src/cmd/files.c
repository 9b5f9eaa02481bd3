#include "cmd/files.h"

#include <errno.h>
#include <stdio.h>

#include "base/error.h"
#include "os/save.h"
#include "sidecar/sidecar.h"

static enum forebay_status cannot_write(
    const struct named_file *file, int errnum, struct forebay_error *err)
{
    char hint[64];
    snprintf(hint, sizeof hint, "Check the path given with %s.", file->option);
    return fb_fail_errno(err, FOREBAY_E_IO, errnum, hint, "cannot write %s", file->path);
}

static enum forebay_status check_output(const struct named_file *file, struct forebay_error *err)
{
    int errnum = fb_path_check_output(file->path);
    if (errnum) {
        return cannot_write(file, errnum, err);
    }
    if (fb_path_holds_weights(file->path)) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give another name.",
            "%s: %s holds the weights of a model and is not replaced", file->option, file->path);
    }
    return FOREBAY_OK;
}

enum forebay_status files_check(const struct named_file *files, size_t n, struct forebay_error *err)
{
    for (size_t i = 0; i < n; i++) {
        enum forebay_status status = FOREBAY_OK;
        if (files[i].path && files[i].written) {
            status = check_output(&files[i], err);
        }
        for (size_t j = 0; j < n && status == FOREBAY_OK; j++) {
            bool relevant = j != i && files[i].path && files[j].path && files[i].written;
            if (relevant && fb_path_same_file(files[i].path, files[j].path)) {
                status = fb_fail(err, FOREBAY_E_USAGE, "Give another name.",
                    "%s and %s are the same file, %s", files[j].option, files[i].option,
                    files[i].path);
            }
        }
        if (status != FOREBAY_OK) {
            return status;
        }
    }
    return FOREBAY_OK;
}

enum forebay_status files_write(
    const struct named_file *file, const char *text, size_t length, struct forebay_error *err)
{
    enum forebay_status status = check_output(file, err);
    if (status == FOREBAY_OK && !fb_file_replace(file->path, text, length)) {
        status = cannot_write(file, errno, err);
    }
    return status;
}

bool files_stdin_is_given(void)
{
    return fb_stdin_is_given();
}
