#include "serve/routes.h"

#include <stdio.h>
#include <string.h>

#include "serve/anthropic.h"
#include "serve/info.h"
#include "serve/llamacpp.h"
#include "serve/ollama.h"
#include "serve/ollama_models.h"
#include "serve/openai.h"

static const struct fb_route routes[] = {
    {"GET", "/models", fb_openai_models, FB_API_OPENAI, 0},
    {"GET", "/models/*", fb_openai_model, FB_API_OPENAI, 0},
    {"POST", "/chat/completions", fb_openai_chat, FB_API_OPENAI, 0},
    {"POST", "/v1/completions", fb_openai_text, FB_API_OPENAI, 0},
    {"POST", "/embeddings", fb_openai_embeddings, FB_API_OPENAI, 0},
    {"POST", "/messages", fb_anthropic_messages, FB_API_ANTHROPIC, 0},
    {"POST", "/messages/count_tokens", fb_anthropic_count, FB_API_ANTHROPIC, 0},
    {"POST", "/completion", fb_llamacpp_completion, FB_API_OPENAI, 0},
    {"POST", "/completions", fb_llamacpp_completion, FB_API_OPENAI, 0},
    {"POST", "/infill", fb_llamacpp_infill, FB_API_OPENAI, 0},
    {"POST", "/tokenize", fb_llamacpp_tokenize, FB_API_OPENAI, 0},
    {"POST", "/detokenize", fb_llamacpp_detokenize, FB_API_OPENAI, 0},
    {"POST", "/apply-template", fb_llamacpp_apply, FB_API_OPENAI, 0},
    {"GET", "/props", fb_llamacpp_props, FB_API_OPENAI, 0},
    {"POST", "/api/generate", fb_ollama_generate, FB_API_OLLAMA, 0},
    {"POST", "/api/chat", fb_ollama_chat, FB_API_OLLAMA, 0},
    {"GET", "/api/tags", fb_ollama_tags, FB_API_OLLAMA, 0},
    {"POST", "/api/show", fb_ollama_show, FB_API_OLLAMA, 0},
    {"GET", "/api/ps", fb_ollama_ps, FB_API_OLLAMA, 0},
    {"GET", "/api/version", fb_ollama_version, FB_API_OLLAMA, 0},
    {"POST", "/api/embed", fb_ollama_embed, FB_API_OLLAMA, 0},
    {"POST", "/api/embeddings", fb_ollama_embed, FB_API_OLLAMA, 0},
    {"POST", "/api/pull", fb_ollama_pull, FB_API_OLLAMA, 0},
    {"POST", "/api/push", fb_ollama_unsupported, FB_API_OLLAMA, 0},
    {"POST", "/api/create", fb_ollama_unsupported, FB_API_OLLAMA, 0},
    {"POST", "/api/copy", fb_ollama_unsupported, FB_API_OLLAMA, 0},
    {"DELETE", "/api/delete", fb_ollama_unsupported, FB_API_OLLAMA, 0},
    {"GET", "/health", fb_info_health, FB_API_OPENAI, FB_ROUTE_OPEN},
    {"GET", "/metrics", fb_info_metrics, FB_API_OPENAI, 0},
    {"GET", "/", fb_info_root, FB_API_OLLAMA, 0},
};

/* Writes a path in its usual form: without "http://host", doubled slashes and one at the end, and
 * without /v1, which clients forget, or have twice, where that changes nothing: llama.cpp has a
 * /completions of its own. */
static void tidy(const char *path, char *out, size_t cap)
{
    const char *host = strstr(path, "://");
    size_t n = 0;
    if (path[0] != '/' && host) {
        path = host + 3 + strcspn(host + 3, "/");
        path = *path ? path : "/";
    }
    for (; *path && n + 1 < cap; path++) {
        if (*path != '/' || n == 0 || out[n - 1] != '/') {
            out[n++] = *path;
        }
    }
    n -= n > 1 && out[n - 1] == '/';
    out[n] = 0;
    while (strncmp(out, "/v1/", 4) == 0 && strcmp(out, "/v1/completions") != 0) {
        memmove(out, out + 3, strlen(out + 3) + 1);
    }
}

/* The API of paths without a route. */
static enum fb_api api_of(const char *path)
{
    return strncmp(path, "/api/", 5) == 0       ? FB_API_OLLAMA
           : strncmp(path, "/messages", 9) == 0 ? FB_API_ANTHROPIC
                                                : FB_API_OPENAI;
}

static bool path_matches(const char *pattern, const char *path)
{
    size_t n = strlen(pattern);
    return pattern[n - 1] == '*' ? strncmp(pattern, path, n - 1) == 0 && path[n - 1]
                                 : strcmp(pattern, path) == 0;
}

static bool method_matches(const char *route, const char *method)
{
    /* The library sends no body in answer to HEAD. */
    return strcmp(route, strcmp(method, "HEAD") == 0 ? "GET" : method) == 0;
}

static void add_allowed(struct fb_route_match *m, const char *method)
{
    size_t n = strlen(m->allow);
    snprintf(m->allow + n, sizeof m->allow - n, "%s%s", n > 0 ? ", " : "",
        strcmp(method, "GET") == 0 ? "GET, HEAD" : method);
}

void fb_route_find(const char *method, const char *given, struct fb_route_match *out)
{
    char path[512];
    tidy(given, path, sizeof path);
    *out = (struct fb_route_match){.status = 404, .api = api_of(path)};
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct fb_route *r = &routes[i];
        if (!path_matches(r->path, path)) {
            continue;
        }
        add_allowed(out, r->method);
        out->status = out->route ? 200 : 405;
        if (!out->route && method_matches(r->method, method)) {
            size_t fixed = strcspn(r->path, "*");
            out->route = r;
            out->status = 200;
            out->api = r->api;
            snprintf(out->rest, sizeof out->rest, "%s", r->path[fixed] ? path + fixed : "");
        }
    }
}
