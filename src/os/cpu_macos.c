/* cpu_macos.c - from sysctl. On Apple's own processors only performance cores count: a thread on an
 * efficiency core would delay all others at every barrier. */
#include "os/cpu.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysctl.h>

static bool sysctl_int(const char *name, int *out)
{
    int value = 0;
    size_t size = sizeof value;
    if (sysctlbyname(name, &value, &size, NULL, 0) || size != sizeof value) {
        return false;
    }
    *out = value;
    return true;
}

int fb_cpu_count(void)
{
    int n = 1;
    if (!sysctl_int("hw.perflevel0.physicalcpu", &n)) {
        (void)sysctl_int("hw.physicalcpu", &n);
    }
    return n > 1 ? n : 1;
}

static char name_text[1024];

static void add_text(const char *glue, const char *text)
{
    size_t used = strlen(name_text);
    snprintf(name_text + used, sizeof name_text - used, "%s%s", glue, text);
}

static void fill_name(void)
{
    static const struct {
        const char *key, *flag;
    } features[] = {
        {"hw.optional.arm.FEAT_DotProd", "asimddp"},
        {"hw.optional.arm.FEAT_FP16", "fphp"},
        {"hw.optional.arm.FEAT_I8MM", "i8mm"},
        {"hw.optional.arm.FEAT_BF16", "bf16"},
        {"hw.optional.arm.FEAT_SME", "sme"},
        {"hw.optional.avx1_0", "avx"},
        {"hw.optional.avx2_0", "avx2"},
        {"hw.optional.fma", "fma"},
        {"hw.optional.f16c", "f16c"},
        {"hw.optional.avx512f", "avx512f"},
    };
    char brand[256] = "unknown processor";
    size_t size = sizeof brand;
    (void)sysctlbyname("machdep.cpu.brand_string", brand, &size, NULL, 0);
    add_text("", brand);
    const char *glue = ": ";
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        int on = 0;
        if (sysctl_int(features[i].key, &on) && on) {
            add_text(glue, features[i].flag);
            glue = " ";
        }
    }
}

const char *fb_cpu_name(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_name);
    return name_text;
}
