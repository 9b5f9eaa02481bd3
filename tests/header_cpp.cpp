/*
 * header_cpp.cpp - include/strata.h as a C++17 program sees it. Compiling it is the test.
 *
 * It has no main and calls nothing: the build makes an object of it.
 */
#include "strata.h"

#include <type_traits>

/* Options and results are plain data: copied freely, zeroed with {}. */
static_assert(std::is_trivial<strata_error>::value && std::is_standard_layout<strata_error>::value,
    "strata_error is plain data");
static_assert(std::is_trivial<strata_stats>::value && std::is_standard_layout<strata_stats>::value,
    "strata_stats is plain data");
static_assert(std::is_trivial<strata_model_options>::value, "options are plain data");
static_assert(std::is_trivial<strata_sampling>::value, "options are plain data");

/* Every function can be called with C++ types, and callbacks can be lambdas. */
strata_status header_cpp(const char *path, strata_session **session);
strata_status header_cpp(const char *path, strata_session **session)
{
    strata_error err{};
    strata_model_options options{};
    strata_model *model = nullptr;
    strata_log_set_sink([](strata_log_level, const char *, void *) {}, nullptr);
    strata_model_options_init(&options);
    options.progress = [](const char *, uint64_t, uint64_t, void *) { return true; };
    strata_status status = strata_model_load(path, &options, &model, &err);
    if (status != STRATA_OK) {
        return status;
    }
    return strata_session_new(model, session, &err);
}
