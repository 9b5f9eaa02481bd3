/* runnable.h - refuses models on which llama.cpp would abort the process. */
#ifndef FB_MODEL_RUNNABLE_H
#define FB_MODEL_RUNNABLE_H

#include "model/catalog.h"

/* E_FORMAT when the key-values contradict each other in a way that makes llama.cpp abort.
 * fb_vgguf_open calls it. */
enum forebay_status fb_catalog_check_runnable(
    const struct fb_catalog *catalog, struct forebay_error *err);

#endif
