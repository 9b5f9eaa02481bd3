/* environment.c - linked to every test: without ctest, too, none uses the cache directory. */
#include <stdlib.h>

__attribute__((constructor)) static void set_environment(void)
{
    setenv("FOREBAY_CACHE_DIR", "/dev/null/none", 0);
}
