/*
 * test_exact_synth.c - models of every architecture and every quantisation that synth can make are
 * exact (exact.h). Needs no files, so that any clone can run it.
 *
 * Each architecture is made twice. Types are assigned to architectures in turn, so that each type
 * is tested both for dense layers and for experts.
 */
#include "exact.h"

#include "synth/synth.h"

struct made {
    const char *arch, *type;
    int number;
    char name[64];
};

static void test_model(void **state)
{
    const struct made *made = *state;
    struct forebay_error err;
    struct fb_synth_shape shape;
    fb_synth_shape_init(&shape);
    shape.arch = made->arch;
    shape.type = made->type;
    shape.layers = 4;
    shape.embd = 256;
    shape.heads = 4;
    shape.ff = 256;
    shape.vocab = 300;
    shape.experts = fb_synth_arch_has_experts(made->arch) ? 16 : 0;
    const char *path = temp_path("model.gguf");
    if (fb_synth_random(&shape, path, NULL, &err) != FOREBAY_OK) {
        fail_msg("%s: %s", made->name, err.message);
    }
    assert_exact(path, made->number);
    remove(path);
}

int main(void)
{
    enum { MOST = 256 };
    static struct made made[MOST];
    static struct CMUnitTest tests[MOST];
    int n_types = 0, n = 0;
    while (fb_synth_type_name(n_types)) {
        n_types++;
    }
    for (int a = 0; fb_synth_arch_name(a) && n + 2 <= MOST; a++) {
        for (int twice = 0; twice < 2; twice++, n++) {
            struct made *m = &made[n];
            *m = (struct made){fb_synth_arch_name(a), fb_synth_type_name(n % n_types), n, ""};
            snprintf(m->name, sizeof m->name, "%s in %s", m->arch, m->type);
            tests[n] =
                (struct CMUnitTest){.name = m->name, .test_func = test_model, .initial_state = m};
        }
    }
    int failed = _cmocka_run_group_tests("exact_synth", tests, (size_t)n, NULL, temp_remove);
    return failed;
}
