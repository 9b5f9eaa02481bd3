#include "engine/libs.h"

#include "base/error.h"
#include "engine/guard.h"
#include "llama.h"
#include "os/file.h"
#include "os/library.h"

static bool have_cpu(void)
{
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) != NULL;
}

enum forebay_status fb_libs_load(struct forebay_error *err)
{
    static bool done;
    if (done) {
        return FOREBAY_OK;
    }
    fb_guard_init();
    fb_file_survive_limit();
    llama_backend_init();
    char dir[4096] = "?";
    if (!have_cpu() && fb_library_dir((void (*)(void))llama_backend_init, dir, sizeof dir)) {
        ggml_backend_load_all_from_path(dir);
    }
    if (!have_cpu()) {
        ggml_backend_load_all_from_path(FOREBAY_LLAMA_LIB_DIR);
    }
    if (!have_cpu()) {
        return fb_fail(err, FOREBAY_E_UNSUPPORTED, "Reinstall, or run `make build` again.",
            "no ggml CPU library (libggml-cpu-*) in %s or " FOREBAY_LLAMA_LIB_DIR, dir);
    }
    done = true;
    return FOREBAY_OK;
}
