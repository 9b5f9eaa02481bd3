/* own_model.h - the model of the tree, loaded once for all tests of a program. */
#ifndef FOREBAY_TESTS_OWN_MODEL_H
#define FOREBAY_TESTS_OWN_MODEL_H

#include "model_files.h"
#include "forebay.h"

static struct forebay_model *model;

/* Group set-up and tear-down. */
static int load(void **state)
{
    (void)state;
    struct forebay_model_options options;
    struct forebay_error err;
    forebay_model_options_init(&options);
    options.threads = 1;
    if (forebay_model_load(OWN_MODELS_DIR "/fable-moe.gguf", &options, &model, &err) !=
        FOREBAY_OK) {
        print_error("%s\n", err.message);
        return -1;
    }
    return 0;
}

static int unload(void **state)
{
    (void)state;
    forebay_model_free(model);
    return 0;
}

#endif
