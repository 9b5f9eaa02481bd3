/*
 * http.c - connections, limits, keys and routes.
 *
 * Each connection has a thread of libmicrohttpd's, which may block: while it waits for tokens, it
 * looks after its client. A request is taken in in three steps (start: method, route, key, length;
 * body; end) and answered in the last, or as soon as it is known to be refused.
 */
#include "serve/http.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "serve/deadlines.h"
#include "serve/exchange.h"

#define HEADERS_MAX_BYTES ((size_t)64 << 10)
#define DISCARD_FACTOR    4 /* of a body that is too large, so much is read before we hang up */

struct route {
    const char *method, *path;
    enum fb_api api;
    void (*handle)(struct fb_request *request);
};

static const struct route routes[] = {
    {"GET", "/v1/models", FB_API_OPENAI, fb_openai_models},
    {"GET", "/v1/models/*", FB_API_OPENAI, fb_openai_model},
    {"POST", "/v1/chat/completions", FB_API_OPENAI, fb_openai_chat},
    {"POST", "/v1/completions", FB_API_OPENAI, fb_openai_text},
    {"POST", "/v1/embeddings", FB_API_OPENAI, fb_openai_embeddings},
    {"POST", "/v1/messages", FB_API_ANTHROPIC, fb_anthropic_messages},
    {"POST", "/v1/messages/count_tokens", FB_API_ANTHROPIC, fb_anthropic_count},
    {"POST", "/api/generate", FB_API_OLLAMA, fb_ollama_generate},
    {"POST", "/api/chat", FB_API_OLLAMA, fb_ollama_chat},
    {"GET", "/api/tags", FB_API_OLLAMA, fb_ollama_tags},
    {"POST", "/api/show", FB_API_OLLAMA, fb_ollama_show},
    {"GET", "/api/ps", FB_API_OLLAMA, fb_ollama_ps},
    {"GET", "/api/version", FB_API_OLLAMA, fb_ollama_version},
    {"POST", "/api/embed", FB_API_OLLAMA, fb_ollama_embed},
    {"POST", "/api/embeddings", FB_API_OLLAMA, fb_ollama_embed},
    {"POST", "/api/pull", FB_API_OLLAMA, fb_ollama_unsupported},
    {"POST", "/api/push", FB_API_OLLAMA, fb_ollama_unsupported},
    {"POST", "/api/create", FB_API_OLLAMA, fb_ollama_unsupported},
    {"POST", "/api/copy", FB_API_OLLAMA, fb_ollama_unsupported},
    {"DELETE", "/api/delete", FB_API_OLLAMA, fb_ollama_unsupported},
    {"GET", "/health", FB_API_OPENAI, fb_answer_health},
    {"GET", "/metrics", FB_API_OPENAI, fb_answer_metrics},
    {"GET", "/", FB_API_OLLAMA, fb_answer_root},
};

struct fb_request {
    struct fb_server *server;
    struct MHD_Connection *connection;
    const struct route *route; /* NULL: none */
    enum fb_api api;
    struct fb_buffer body;
    uint64_t received;
    int refused; /* HTTP status; 0: it is not */
    char why[256];
    char client[INET6_ADDRSTRLEN];
    char rest[256];
    bool answered;
    enum MHD_Result result; /* of queueing the answer */
};

struct fb_server *fb_request_server(const struct fb_request *r)
{
    return r->server;
}

enum fb_api fb_request_api(const struct fb_request *r)
{
    return r->api;
}

const char *fb_request_body(const struct fb_request *r, size_t *n)
{
    *n = r->body.n;
    return r->body.data;
}

const char *fb_request_rest(const struct fb_request *r)
{
    return r->rest;
}

const char *fb_request_client(const struct fb_request *r)
{
    return r->client;
}

/* --- Clients that leave, or are slow ------------------------------------------------------- */

bool fb_request_left(const struct fb_request *r)
{
    char byte;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info && recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* The time we take is not the client's: its clock stands while we compute (0), and begins anew. */
static void set_timeout(const struct fb_request *r, int seconds)
{
    MHD_set_connection_option(r->connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned int)seconds);
}

static struct fb_deadline *deadline_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* A client comes or goes. */
static void on_connection(void *user, struct MHD_Connection *connection, void **context,
    enum MHD_ConnectionNotificationCode what)
{
    struct fb_server *s = user;
    struct fb_deadline *d = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = d = fb_xcalloc(1, sizeof *d);
        d->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        fb_deadline_watch(s->deadlines, d);
    } else {
        fb_deadline_rest(s->deadlines, d);
        free(d);
    }
}

/* --- Answers ------------------------------------------------------------------------------- */

static void queue(struct fb_request *r, int status, struct MHD_Response *response)
{
    if (status == 429 || status == 503) {
        MHD_add_response_header(response, "Retry-After", "2");
    }
    if (status == 401) {
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    }
    set_timeout(r, r->server->options.timeout_s);
    r->result = MHD_queue_response(r->connection, (unsigned)status, response);
    r->answered = true;
    MHD_destroy_response(response);
}

void fb_answer_bytes(struct fb_request *r, int status, const char *type, char *bytes, size_t n)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n, bytes, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, "Content-Type", type);
    queue(r, status, response);
}

/* --- Streams ------------------------------------------------------------------------------- */

struct stream {
    struct fb_request *request;
    struct fb_exchange *exchange;
    struct fb_buffer out;
    size_t sent;
    bool more;
};

static ssize_t read_stream(void *user, uint64_t pos, char *buf, size_t max)
{
    struct stream *s = user;
    (void)pos;
    set_timeout(s->request, 0);
    while (s->sent == s->out.n && s->more) {
        fb_buffer_clear(&s->out);
        s->sent = 0;
        s->more = fb_exchange_advance(s->exchange, &s->out);
    }
    set_timeout(s->request, s->request->server->options.timeout_s);
    size_t n = s->out.n - s->sent;
    if (n == 0) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    n = n < max ? n : max;
    memcpy(buf, s->out.data + s->sent, n);
    s->sent += n;
    return (ssize_t)n;
}

static void free_stream(void *user)
{
    struct stream *s = user;
    fb_exchange_free(s->exchange);
    fb_buffer_release(&s->out);
    free(s);
}

void fb_answer_stream(struct fb_request *r, const char *type, struct fb_exchange *exchange)
{
    struct stream *s = fb_xcalloc(1, sizeof *s);
    *s = (struct stream){.request = r, .exchange = exchange, .out = FB_BUFFER_INIT, .more = true};
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, read_stream, s, free_stream);
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    queue(r, 200, response);
}

/* --- Who may ask --------------------------------------------------------------------------- */

/* In a time that depends on the length of what is offered only. */
static bool same_key(const char *offered, const char *key)
{
    size_t n = strlen(offered), n_key = strlen(key);
    volatile unsigned char differ = n != n_key;
    for (size_t i = 0; i < n; i++) {
        differ |= (unsigned char)(offered[i] ^ key[i % (n_key + 1)]);
    }
    return differ == 0;
}

static const char *header(const struct fb_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static bool has_key(const struct fb_request *r)
{
    const char *key = r->server->options.api_key;
    const char *bearer = header(r, "Authorization"), *plain = header(r, "x-api-key");
    if (!key || (r->route && r->route->handle == fb_answer_health)) {
        return true;
    }
    bool good = bearer && strncasecmp(bearer, "Bearer ", 7) == 0 && same_key(bearer + 7, key);
    return good | (plain && same_key(plain, key));
}

/* "NAME" or "NAME:8080" */
static bool is_host(const char *host, const char *name)
{
    size_t n = strlen(name);
    return strncasecmp(host, name, n) == 0 && (!host[n] || host[n] == ':');
}

/* "localhost:8080", "127.0.0.1", "[::1]:8080", "http://localhost" */
static bool names_loopback(const char *host)
{
    const char *scheme = strstr(host, "://");
    host = scheme ? scheme + 3 : host;
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (is_host(host, names[i])) {
            return true;
        }
    }
    return false;
}

/* A page in somebody's browser must not use a server that only this machine can reach. */
static bool is_foreign_page(const struct fb_request *r)
{
    const char *host = header(r, "Host"), *origin = header(r, "Origin");
    if (!r->server->loopback || r->server->options.api_key) {
        return false;
    }
    bool host_ok = !host || names_loopback(host) || is_host(host, r->server->options.host);
    return !host_ok || (origin && !names_loopback(origin));
}

/* --- Taking in a request ------------------------------------------------------------------- */

static bool matches(const char *pattern, const char *path)
{
    size_t n = strlen(pattern);
    return pattern[n - 1] == '*' ? strncmp(pattern, path, n - 1) == 0 && path[n - 1]
                                 : strcmp(pattern, path) == 0;
}

static void refuse(struct fb_request *r, int status, const char *why)
{
    if (!r->refused) {
        r->refused = status;
        snprintf(r->why, sizeof r->why, "%s", why);
    }
}

static void find_route(struct fb_request *r, const char *method, const char *path)
{
    bool path_known = false;
    const char *as =
        strcmp(method, "HEAD") == 0 ? "GET" : method; /* the library leaves the body out */
    r->api = strncmp(path, "/api/", 5) == 0           ? FB_API_OLLAMA
             : strncmp(path, "/v1/messages", 12) == 0 ? FB_API_ANTHROPIC
                                                      : FB_API_OPENAI;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (matches(routes[i].path, path)) {
            path_known = true;
            if (strcmp(routes[i].method, as) == 0) {
                r->route = &routes[i];
                r->api = routes[i].api;
                snprintf(r->rest, sizeof r->rest, "%s",
                    path + fb_min(strlen(path), strcspn(routes[i].path, "*")));
                return;
            }
        }
    }
    refuse(r, path_known ? 405 : 404,
        path_known ? "this method is not for this path" : "there is nothing at this path");
}

static void note_client(struct fb_request *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)info->client_addr;
        inet_ntop(AF_INET, &in->sin_addr, r->client, sizeof r->client);
    } else if (info && info->client_addr->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in =
            (const struct sockaddr_in6 *)(const void *)info->client_addr;
        inet_ntop(AF_INET6, &in->sin6_addr, r->client, sizeof r->client);
    }
}

static struct fb_request *start(struct fb_server *server, struct MHD_Connection *connection,
    const char *method, const char *path)
{
    struct fb_request *r = fb_xcalloc(1, sizeof *r);
    r->server = server;
    r->connection = connection;
    fb_buffer_init(&r->body);
    r->result = MHD_NO;
    note_client(r);
    find_route(r, method, path);
    int not_found = r->refused;
    r->refused = 0; /* without a key, nothing is said about paths */
    if (is_foreign_page(r)) {
        refuse(r, 403, "pages of other sites may not use this server");
    } else if (!has_key(r)) {
        refuse(r, 401, "an API key is needed, as in 'Authorization: Bearer KEY'");
    }
    r->refused = r->refused ? r->refused : not_found;
    const char *length = header(r, "Content-Length");
    if (length && strtoull(length, NULL, 10) > server->options.body_max_bytes) {
        refuse(r, 413, "the body is too large");
    }
    return r;
}

/* Takes in a piece of the body. False: hang up. */
static bool take_body(struct fb_request *r, const char *data, size_t n)
{
    const struct fb_server_options *o = &r->server->options;
    r->received += n;
    if (r->received > o->body_max_bytes) {
        refuse(r, 413, "the body is too large");
        fb_buffer_release(&r->body);
    }
    if (!r->refused) {
        fb_buffer_add(&r->body, data, n);
    }
    return r->received <= DISCARD_FACTOR * o->body_max_bytes;
}

static void answer(struct fb_request *r)
{
    fb_deadline_rest(r->server->deadlines, deadline_of(r->connection));
    set_timeout(r, 0);
    if (r->refused) {
        fb_answer_error(r, r->refused, "%s", r->why);
    } else {
        r->route->handle(r);
    }
    FB_ASSERT(r->answered);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
    const char *method, const char *version, const char *data, size_t *n, void **state)
{
    struct fb_request *r = *state;
    (void)version;
    if (!r) {
        *state = r = start(user, connection, method, path);
        fb_deadline_watch(r->server->deadlines, deadline_of(connection)); /* for the body */
        if (r->refused == 413) { /* before it sends all of it */
            answer(r);
            return r->result;
        }
        return MHD_YES;
    }
    if (*n > 0) {
        bool go_on = take_body(r, data, *n);
        *n = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    if (!r->answered) {
        answer(r);
    }
    return r->result;
}

static void on_end(void *user, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode why)
{
    struct fb_server *s = user;
    struct fb_request *r = *state;
    (void)why;
    fb_deadline_watch(s->deadlines, deadline_of(connection)); /* for the next */
    if (r) {
        fb_buffer_release(&r->body);
        free(r);
        *state = NULL;
    }
}

/* A path with a NUL in it is none of ours, and must not end there: "/v1/models%00x". */
static size_t unescape(void *user, struct MHD_Connection *connection, char *text)
{
    (void)user, (void)connection;
    size_t n = MHD_http_unescape(text);
    for (size_t i = 0; i < n; i++) {
        text[i] = text[i] ? text[i] : '\1';
    }
    return n;
}

static void on_log(void *user, const char *format, va_list ap)
{
    char line[512];
    (void)user;
    vsnprintf(line, sizeof line, format, ap);
    line[strcspn(line, "\n")] = 0;
    fb_debug("http: %s", line);
}

/* --- Life ---------------------------------------------------------------------------------- */

void fb_server_options_init(struct fb_server_options *o)
{
    *o = (struct fb_server_options){
        .host = "127.0.0.1",
        .port = 8080,
        .body_max_bytes = 16 * FB_MIB,
        .connections_max = 128,
        .timeout_s = 60,
    };
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
    }
    const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
    return IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
}

static struct MHD_Daemon *listen_on(struct fb_server *s, const struct addrinfo *address)
{
    const struct fb_server_options *o = &s->options;
    unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                     MHD_USE_POLL | MHD_USE_ERROR_LOG | MHD_USE_ITC;
    if (address->ai_family == AF_INET6) {
        flags |= MHD_USE_IPv6;
    }
    s->loopback = is_loopback(address->ai_addr);
    return MHD_start_daemon(flags, o->port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER,
        on_log, NULL, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_SOCK_ADDR,
        address->ai_addr, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_NOTIFY_COMPLETED, on_end, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEADERS_MAX_BYTES, MHD_OPTION_LISTENING_ADDRESS_REUSE,
        1u, MHD_OPTION_END);
}

static enum forebay_status start_daemon(struct fb_server *s, struct forebay_error *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    s->deadlines = fb_deadlines_new(s->options.timeout_s);
    if (!s->deadlines) {
        return fb_fail(err, FOREBAY_E_NOMEM, "", "cannot start a thread");
    }
    snprintf(port, sizeof port, "%u", s->options.port);
    int rc = getaddrinfo(s->options.host, port, &hints, &list);
    if (rc != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a name or an address of this machine.",
            "--host %s: %s", s->options.host, gai_strerror(rc));
    }
    s->daemon = listen_on(s, list);
    freeaddrinfo(list);
    return s->daemon
               ? FOREBAY_OK
               : fb_fail(err, FOREBAY_E_IO, "Perhaps something listens there already: --port.",
                     "cannot listen on %s, port %u", s->options.host, s->options.port);
}

uint16_t fb_server_port(const struct fb_server *s)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : s->options.port;
}

static void release(struct fb_server *s)
{
    fb_deadlines_free(s->deadlines);
    forebay_chat_free(s->chat);
    free(s);
}

enum forebay_status fb_server_start(struct fb_service *service,
    const struct fb_server_options *options, struct fb_server **out, struct forebay_error *err)
{
    struct fb_server *s = fb_xcalloc(1, sizeof *s);
    s->options = *options;
    s->service = service;
    s->model = fb_service_model(service);
    enum forebay_status status = fb_model_card_make(s, err);
    if (status == FOREBAY_OK && forebay_model_has_text(s->model)) {
        status = forebay_chat_new(s->model, options->chat_template, &s->chat, err);
    }
    if (status == FOREBAY_OK) {
        status = start_daemon(s, err);
    }
    if (status != FOREBAY_OK) {
        release(s);
        return status;
    }
    *out = s;
    return FOREBAY_OK;
}

void fb_server_stop(struct fb_server *s)
{
    if (s) {
        s->stopping = true;
        MHD_stop_daemon(s->daemon);
        release(s);
    }
}
