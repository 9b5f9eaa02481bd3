/* test_origins.c - which web pages may use the server; paths in their usual form. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "serve/origins.h"
#include "serve/routes.h"

static void test_origins(void **state)
{
    static const struct {
        const char *list, *origin;
        bool allowed;
    } cases[] = {
        {NULL, "https://a.example", false},
        {"", "https://a.example", false},
        {"https://a.example", NULL, false},
        {"https://a.example", "https://a.example", true},
        {"https://a.example", "HTTPS://A.example", true},
        {"https://a.example/", "https://a.example", true},
        {"https://a.example", "http://a.example", false},
        {"https://a.example", "https://a.example:8443", false},
        {"https://a.example", "https://a.example.evil", false},
        {"https://a.example", "https://evil.a.example", false},
        {"https://a.example:*", "https://a.example:8443", true},
        {"https://*.example", "https://a.b.example", true},
        {"https://*.example", "https://example", false},
        {"a.example", "http://a.example:3000", true},
        {"a.example", "https://a.example", true},
        {"a.example", "app://a.example", false},
        {"a.example", "https://b.example", false},
        {"a.example:80", "http://a.example:80", true},
        {"x, https://b.example ,c", "https://b.example", true},
        {"app://", "app://obsidian.md", true},
        {"app://*", "app://obsidian.md", true},
        {"vscode-webview://", "vscode-webview://0a1b", true},
        {"chrome-extension://abc", "chrome-extension://abc", true},
        {"chrome-extension://abc", "chrome-extension://abd", false},
        {"app://", "xapp://a", false},
        {"*", "https://anything", true},
        {"*", "null", true},
        {"null", "null", true},
        {"https://a*b*c", "https://aXbYbZc", true},
        {"https://a*b*c", "https://aXbYbZ", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (fb_origins_allow(cases[i].list, cases[i].origin) != cases[i].allowed) {
            fail_msg("'%s', '%s'", cases[i].list ? cases[i].list : "NULL", cases[i].origin);
        }
    }
}

static void test_hosts(void **state)
{
    (void)state;
    assert_true(fb_origins_allow_host("https://llm.example", "llm.example"));
    assert_true(fb_origins_allow_host("https://llm.example:8443", "llm.example:80"));
    assert_true(fb_origins_allow_host("llm.example", "LLM.example:8080"));
    assert_true(fb_origins_allow_host("*", "any.example"));
    assert_false(fb_origins_allow_host("https://llm.example", "llm.example.evil"));
    assert_false(fb_origins_allow_host("app://", "evil.example"));
    assert_false(fb_origins_allow_host(NULL, "evil.example"));
}

static void test_paths(void **state)
{
    static const struct {
        const char *path, *route, *rest;
    } paths[] = {
        {"/v1/models", "/models", ""},
        {"/models", "/models", ""},
        {"//v1//models//", "/models", ""},
        {"/v1/v1/models", "/models", ""},
        {"http://localhost:8080/v1/models", "/models", ""},
        {"http://localhost:8080", "/", ""},
        {"/", "/", ""},
        {"//", "/", ""},
        {"/v1/models/a/b", "/models/*", "a/b"},
        {"/health/", "/health", ""},
        {"/v1/nothing", NULL, ""},
        {"/v1", NULL, ""},
        {"", NULL, ""},
        {"models", NULL, ""},
        {"/modelsx", NULL, ""},
    };
    (void)state;
    struct fb_route_match m;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        fb_route_find("GET", paths[i].path, &m);
        const char *route = m.route ? m.route->path : "none";
        if (strcmp(route, paths[i].route ? paths[i].route : "none") != 0) {
            fail_msg("'%s': %s", paths[i].path, route);
        }
        assert_string_equal(m.rest, paths[i].rest);
    }
    fb_route_find("POST", "/v1//completions/", &m);
    assert_string_equal(m.route->path, "/v1/completions");
    fb_route_find("POST", "/completions", &m);
    assert_string_equal(m.route->path, "/completions");
    fb_route_find("POST", "/v1/messages/nothing", &m);
    assert_int_equal(m.api, FB_API_ANTHROPIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_origins),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
