#include "engine/sidecar_choice.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "os/cpu.h"
#include "os/memory.h"
#include "os/output.h"

struct fb_sidecar_user fb_sidecar_user_here(const struct fb_catalog *catalog, bool repack)
{
    return (struct fb_sidecar_user){catalog, repack, fb_cpu_name(), forebay_llama_version()};
}

/* Warns about an existing sidecar that may not be used, and treats it as absent. */
static void try_sidecar(
    const char *path, const struct fb_sidecar_user *user, struct fb_sidecar **out)
{
    struct forebay_error error;
    if (!*out && fb_path_exists(path) && fb_sidecar_open(path, user, out, &error) != FOREBAY_OK) {
        fb_warn("the sidecar is not used. %s (%s)", error.message, error.hint);
    }
}

enum forebay_status fb_sidecar_choose(const struct fb_catalog *catalog, const char *wanted,
    bool repack, struct fb_sidecar **out, struct forebay_error *err)
{
    char path[4096];
    struct fb_sidecar_user user = fb_sidecar_user_here(catalog, repack);
    bool automatic = strcmp(wanted, "auto") == 0, none = strcmp(wanted, "none") == 0;
    if (!automatic && !none && !fb_path_exists(wanted)) {
        return fb_fail(err, FOREBAY_E_IO, "Make it: forebay optimize MODEL -o FILE.",
            "there is no sidecar %s", wanted);
    }
    *out = NULL;
    if (!automatic && !none) {
        try_sidecar(wanted, &user, out);
    }
    for (int cached = 0; automatic && cached < 2; cached++) {
        if (fb_sidecar_path(catalog, cached, path, sizeof path)) {
            try_sidecar(path, &user, out);
        }
    }
    return FOREBAY_OK;
}
