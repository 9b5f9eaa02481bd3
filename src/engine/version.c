/* version.c - versions of this library and of the llama.cpp in use. */
#include "forebay.h"
#include "llama.h"

const char *forebay_version(void)
{
#define FB_TEXT(x)  #x
#define FB_TEXT2(x) FB_TEXT(x)
    return FB_TEXT2(FOREBAY_VERSION_MAJOR) "." FB_TEXT2(FOREBAY_VERSION_MINOR) "." FB_TEXT2(
        FOREBAY_VERSION_PATCH);
}

const char *forebay_llama_version(void)
{
    return llama_version();
}
