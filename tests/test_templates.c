/* test_templates.c - chat templates that do not end, recurse, nest deeply, or take all memory. */
#include "own_model.h"
#include "base/units.h"

static const char request[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";

static enum forebay_status use(const char *text, struct forebay_error *err)
{
    struct forebay_chat *chat;
    struct forebay_prompt *prompt;
    enum forebay_status status = forebay_chat_new(model, text, &chat, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    status = forebay_chat_render(chat, request, strlen(request), NULL, NULL, &prompt, err);
    if (status == FOREBAY_OK) {
        forebay_prompt_free(prompt);
    }
    forebay_chat_free(chat);
    return status;
}

/* An error, or a prompt; but no crash, and soon. */
static enum forebay_status survive(const char *text)
{
    struct forebay_error err;
    uint64_t before = fb_now_ns();
    enum forebay_status status = use(text, &err);
    if (status != FOREBAY_OK && status != FOREBAY_E_USAGE) {
        fail_msg("%.60s: %s", text, err.message);
    }
    if (fb_now_ns() - before > 60 * (uint64_t)1000000000) { /* 6 s on an idle machine */
        fail_msg("%.60s takes too long", text);
    }
    return status;
}

static void refuse(const char *text)
{
    if (survive(text) != FOREBAY_E_USAGE) {
        fail_msg("not refused: %.60s", text);
    }
}

static void need_limits(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* there are none (work_limit.h) */
#endif
}

static void loops_end(void **state)
{
    (void)state;
    need_limits();
    refuse("{% for i in range(1000000000) %}{% endfor %}");
    refuse("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}");
    refuse("{% for m in messages %}{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}"
           "{% endfor %}{% endfor %}{% endfor %}");
    refuse("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
           "{{ f(60) }}");
}

static void recursion_ends(void **state)
{
    (void)state;
    need_limits();
    refuse("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    refuse("{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f([x]) }}{% endmacro %}"
           "{{ f(1) }}");
}

static void memory_is_bounded(void **state)
{
    (void)state;
    need_limits();
    refuse("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
           "{% endfor %}{{ ns.s }}");
    refuse("{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}"
           "{% endfor %}");
    survive("{{ 'x' * 10000000000 }}");
    /* Values in values, which are freed by recursion. */
    survive("{% set ns = namespace(x=[]) %}{% for i in range(1000000) %}{% set ns.x = [ns.x] %}"
            "{% endfor %}{{ ns.x }}");
}

/* `head`, n times `open`, `middle`, n times `close`. */
static void nest(const char *head, const char *open, const char *middle, const char *close, int n)
{
    size_t cap = strlen(head) + strlen(middle) + (size_t)n * (strlen(open) + strlen(close)) + 10;
    char *text = malloc(cap), *at = text;
    assert_non_null(text);
    at += sprintf(at, "%s", head);
    for (int i = 0; i < n; i++) {
        at += sprintf(at, "%s", open);
    }
    at += sprintf(at, "%s", middle);
    for (int i = 0; i < n; i++) {
        at += sprintf(at, "%s", close);
    }
    survive(text);
    free(text);
}

static void deep_nesting_is_survived(void **state)
{
    (void)state;
    need_limits();
    static const int levels[] = {200, 20000};
    for (int i = 0; i < 2; i++) {
        int n = levels[i];
        nest("{{ ", "(", "1", ")", n);
        nest("{{ ", "[", "1", "]", n);
        nest("{{ ", "{'a':", "1", "}", n / 2);
        nest("{{ ", "not ", "1 }}", "", n);
        nest("{{ ", "-", "1 }}", "", n);
        nest("{{ messages", ".a", " }}", "", n);
        nest("{{ messages", "[0]", " }}", "", n);
        nest("{{ 'a'", "|trim", " }}", "", n);
        nest("{{ 1", " + 1", " }}", "", n);
        nest("{{ 1", " if 1 else 1", " }}", "", n / 4);
        nest("", "{% if 1 %}", "x", "{% endif %}", n / 4);
        nest("", "{% for i in [1] %}", "x", "{% endfor %}", n / 8);
        nest("{% if 0 %}", "{% elif 0 %}", "{% endif %}x", "", n / 4);
    }
}

/* A request of n messages, to be freed. */
static char *many_messages(int n)
{
    static const char message[] = "{\"role\":\"user\",\"content\":\"hello\"}";
    char *many = malloc((size_t)n * sizeof message + 100), *at = many;
    at += sprintf(at, "{\"messages\":[");
    for (int i = 0; i < n; i++) {
        at += sprintf(at, "%s%s", i ? "," : "", message);
    }
    sprintf(at, "]}");
    return many;
}

static void honest_templates_work(void **state)
{
    (void)state;
    struct forebay_chat *chat;
    struct forebay_error err;
    struct forebay_prompt *prompt;
    char *many = many_messages(100);
    if (forebay_chat_new(model, NULL, &chat, &err) != FOREBAY_OK ||
        forebay_chat_render(chat, many, strlen(many), NULL, NULL, &prompt, &err) != FOREBAY_OK) {
        fail_msg("%s", err.message);
    }
    forebay_prompt_free(prompt);
    forebay_chat_free(chat);
    free(many);
}

/* Each message takes a token, at least. */
static void too_many_messages_are_refused_at_once(void **state)
{
    (void)state;
    struct forebay_chat *chat;
    struct forebay_error err;
    struct forebay_prompt *prompt;
    int n = 200000;
    char *many = malloc((size_t)n * 32 + 100), *at = many;
    at += sprintf(at, "{\"messages\":[{}");
    for (int i = 0; i < n; i++) {
        at += sprintf(at, ",{\"role\":\"user\",\"content\":\"\"}");
    }
    sprintf(at, "]}");
    assert_int_equal(forebay_chat_new(model, NULL, &chat, NULL), FOREBAY_OK);
    assert_int_equal(forebay_chat_render(chat, many, strlen(many), NULL, NULL, &prompt, &err),
        FOREBAY_E_CONTEXT);
    assert_non_null(strstr(err.message, "200001 messages"));
    forebay_chat_free(chat);
    free(many);
}

struct patience {
    int asked, most;
};

/* forebay_progress */
static bool wait_for(const char *what, uint64_t done, uint64_t total, void *user)
{
    struct patience *p = user;
    (void)what;
    (void)done;
    (void)total;
    return ++p->asked < p->most;
}

/* While the messages are read, and while the template is applied, which is asked more often. */
static void rendering_can_be_cancelled(void **state)
{
    (void)state;
    struct forebay_chat *chat;
    struct forebay_error err;
    struct forebay_prompt *prompt;
    struct patience all = {0, INT_MAX};
    char *many = many_messages(100);
    assert_int_equal(forebay_chat_new(model, NULL, &chat, NULL), FOREBAY_OK);
    assert_int_equal(
        forebay_chat_render(chat, many, strlen(many), wait_for, &all, &prompt, &err), FOREBAY_OK);
    forebay_prompt_free(prompt);
    assert_true(all.asked > 300); /* for each message, its role and its text */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(all.asked > 600);
#endif
    for (int most = 1; most <= all.asked; most += all.asked / 20) {
        struct patience some = {0, most};
        assert_int_equal(
            forebay_chat_render(chat, many, strlen(many), wait_for, &some, &prompt, &err),
            FOREBAY_E_CANCELLED);
        assert_true(some.asked <= most + 100); /* not at once within the JSON library */
    }
    forebay_chat_free(chat);
    free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_end),
        cmocka_unit_test(recursion_ends),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(deep_nesting_is_survived),
        cmocka_unit_test(honest_templates_work),
        cmocka_unit_test(too_many_messages_are_refused_at_once),
        cmocka_unit_test(rendering_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
