/*
 * header_cpp.cpp - include/forebay.h as a C++17 program sees it. Compiling it is the test.
 *
 * It has no main and calls nothing: the build makes an object of it.
 */
#include "forebay.h"

#include <type_traits>

/* Options and results are plain data: copied freely, zeroed with {}. */
static_assert(
    std::is_trivial<forebay_error>::value && std::is_standard_layout<forebay_error>::value,
    "forebay_error is plain data");
static_assert(
    std::is_trivial<forebay_stats>::value && std::is_standard_layout<forebay_stats>::value,
    "forebay_stats is plain data");
static_assert(std::is_trivial<forebay_model_options>::value, "options are plain data");
static_assert(std::is_trivial<forebay_sampling>::value, "options are plain data");

/* Every function can be called with C++ types, and callbacks can be lambdas. */
forebay_status header_cpp(const char *path, forebay_session **session);
forebay_status header_cpp(const char *path, forebay_session **session)
{
    forebay_error err{};
    forebay_model_options options{};
    forebay_model *model = nullptr;
    forebay_log_set_sink([](forebay_log_level, const char *, void *) {}, nullptr);
    forebay_model_options_init(&options);
    options.progress = [](const char *, uint64_t, uint64_t, void *) { return true; };
    forebay_status status = forebay_model_load(path, &options, &model, &err);
    if (status != FOREBAY_OK) {
        return status;
    }
    return forebay_session_new(model, session, &err);
}
