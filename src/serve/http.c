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
    enum st_api api;
    void (*handle)(struct st_request *request);
};

static const struct route routes[] = {
    {"GET", "/v1/models", ST_API_OPENAI, st_openai_models},
    {"GET", "/v1/models/*", ST_API_OPENAI, st_openai_model},
    {"POST", "/v1/chat/completions", ST_API_OPENAI, st_openai_chat},
    {"POST", "/v1/completions", ST_API_OPENAI, st_openai_text},
    {"POST", "/v1/embeddings", ST_API_OPENAI, st_openai_embeddings},
    {"POST", "/v1/messages", ST_API_ANTHROPIC, st_anthropic_messages},
    {"POST", "/v1/messages/count_tokens", ST_API_ANTHROPIC, st_anthropic_count},
    {"POST", "/api/generate", ST_API_OLLAMA, st_ollama_generate},
    {"POST", "/api/chat", ST_API_OLLAMA, st_ollama_chat},
    {"GET", "/api/tags", ST_API_OLLAMA, st_ollama_tags},
    {"POST", "/api/show", ST_API_OLLAMA, st_ollama_show},
    {"GET", "/api/ps", ST_API_OLLAMA, st_ollama_ps},
    {"GET", "/api/version", ST_API_OLLAMA, st_ollama_version},
    {"POST", "/api/embed", ST_API_OLLAMA, st_ollama_embed},
    {"POST", "/api/embeddings", ST_API_OLLAMA, st_ollama_embed},
    {"POST", "/api/pull", ST_API_OLLAMA, st_ollama_unsupported},
    {"POST", "/api/push", ST_API_OLLAMA, st_ollama_unsupported},
    {"POST", "/api/create", ST_API_OLLAMA, st_ollama_unsupported},
    {"POST", "/api/copy", ST_API_OLLAMA, st_ollama_unsupported},
    {"DELETE", "/api/delete", ST_API_OLLAMA, st_ollama_unsupported},
    {"GET", "/health", ST_API_OPENAI, st_answer_health},
    {"GET", "/metrics", ST_API_OPENAI, st_answer_metrics},
    {"GET", "/", ST_API_OLLAMA, st_answer_root},
};

struct st_request {
    struct st_server *server;
    struct MHD_Connection *connection;
    const struct route *route; /* NULL: none */
    enum st_api api;
    struct st_buffer body;
    uint64_t received;
    int refused; /* HTTP status; 0: it is not */
    char why[256];
    char client[INET6_ADDRSTRLEN];
    char rest[256];
    bool answered;
    enum MHD_Result result; /* of queueing the answer */
};

struct st_server *st_request_server(const struct st_request *r)
{
    return r->server;
}

enum st_api st_request_api(const struct st_request *r)
{
    return r->api;
}

const char *st_request_body(const struct st_request *r, size_t *n)
{
    *n = r->body.n;
    return r->body.data;
}

const char *st_request_rest(const struct st_request *r)
{
    return r->rest;
}

const char *st_request_client(const struct st_request *r)
{
    return r->client;
}

/* --- Clients that leave, or are slow ------------------------------------------------------- */

bool st_request_left(const struct st_request *r)
{
    char byte;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info && recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* The time we take is not the client's: its clock stands while we compute (0), and begins anew. */
static void set_timeout(const struct st_request *r, int seconds)
{
    MHD_set_connection_option(r->connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned int)seconds);
}

static struct st_deadline *deadline_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* A client comes or goes. */
static void on_connection(void *user, struct MHD_Connection *connection, void **context,
    enum MHD_ConnectionNotificationCode what)
{
    struct st_server *s = user;
    struct st_deadline *d = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = d = st_xcalloc(1, sizeof *d);
        d->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        st_deadline_watch(s->deadlines, d);
    } else {
        st_deadline_rest(s->deadlines, d);
        free(d);
    }
}

/* --- Answers ------------------------------------------------------------------------------- */

static void queue(struct st_request *r, int status, struct MHD_Response *response)
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

void st_answer_bytes(struct st_request *r, int status, const char *type, char *bytes, size_t n)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n, bytes, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, "Content-Type", type);
    queue(r, status, response);
}

/* --- Streams ------------------------------------------------------------------------------- */

struct stream {
    struct st_request *request;
    struct st_exchange *exchange;
    struct st_buffer out;
    size_t sent;
    bool more;
};

static ssize_t read_stream(void *user, uint64_t pos, char *buf, size_t max)
{
    struct stream *s = user;
    (void)pos;
    set_timeout(s->request, 0);
    while (s->sent == s->out.n && s->more) {
        s->out.n = s->sent = 0;
        s->more = st_exchange_advance(s->exchange, &s->out);
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
    st_exchange_free(s->exchange);
    st_buffer_release(&s->out);
    free(s);
}

void st_answer_stream(struct st_request *r, const char *type, struct st_exchange *exchange)
{
    struct stream *s = st_xcalloc(1, sizeof *s);
    *s = (struct stream){.request = r, .exchange = exchange, .more = true};
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

static const char *header(const struct st_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static bool has_key(const struct st_request *r)
{
    const char *key = r->server->options.api_key;
    const char *bearer = header(r, "Authorization"), *plain = header(r, "x-api-key");
    if (!key || (r->route && r->route->handle == st_answer_health)) {
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
static bool is_foreign_page(const struct st_request *r)
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

static void refuse(struct st_request *r, int status, const char *why)
{
    if (!r->refused) {
        r->refused = status;
        snprintf(r->why, sizeof r->why, "%s", why);
    }
}

static void find_route(struct st_request *r, const char *method, const char *path)
{
    bool path_known = false;
    const char *as =
        strcmp(method, "HEAD") == 0 ? "GET" : method; /* the library leaves the body out */
    r->api = strncmp(path, "/api/", 5) == 0           ? ST_API_OLLAMA
             : strncmp(path, "/v1/messages", 12) == 0 ? ST_API_ANTHROPIC
                                                      : ST_API_OPENAI;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (matches(routes[i].path, path)) {
            path_known = true;
            if (strcmp(routes[i].method, as) == 0) {
                r->route = &routes[i];
                r->api = routes[i].api;
                snprintf(r->rest, sizeof r->rest, "%s",
                    path + st_min(strlen(path), strcspn(routes[i].path, "*")));
                return;
            }
        }
    }
    refuse(r, path_known ? 405 : 404,
        path_known ? "this method is not for this path" : "there is nothing at this path");
}

static void note_client(struct st_request *r)
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

static struct st_request *start(struct st_server *server, struct MHD_Connection *connection,
    const char *method, const char *path)
{
    struct st_request *r = st_xcalloc(1, sizeof *r);
    r->server = server;
    r->connection = connection;
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
static bool take_body(struct st_request *r, const char *data, size_t n)
{
    const struct st_server_options *o = &r->server->options;
    r->received += n;
    if (r->received > o->body_max_bytes) {
        refuse(r, 413, "the body is too large");
        st_buffer_release(&r->body);
    }
    if (!r->refused) {
        st_buffer_add(&r->body, data, n);
    }
    return r->received <= DISCARD_FACTOR * o->body_max_bytes;
}

static void answer(struct st_request *r)
{
    st_deadline_rest(r->server->deadlines, deadline_of(r->connection));
    set_timeout(r, 0);
    if (r->refused) {
        st_answer_error(r, r->refused, "%s", r->why);
    } else {
        r->route->handle(r);
    }
    ST_ASSERT(r->answered);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
    const char *method, const char *version, const char *data, size_t *n, void **state)
{
    struct st_request *r = *state;
    (void)version;
    if (!r) {
        *state = r = start(user, connection, method, path);
        st_deadline_watch(r->server->deadlines, deadline_of(connection)); /* for the body */
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
    struct st_server *s = user;
    struct st_request *r = *state;
    (void)why;
    st_deadline_watch(s->deadlines, deadline_of(connection)); /* for the next */
    if (r) {
        st_buffer_release(&r->body);
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
    st_debug("http: %s", line);
}

/* --- Life ---------------------------------------------------------------------------------- */

void st_server_options_init(struct st_server_options *o)
{
    *o = (struct st_server_options){
        .host = "127.0.0.1",
        .port = 8080,
        .body_max_bytes = 16 * ST_MIB,
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

static struct MHD_Daemon *listen_on(struct st_server *s, const struct addrinfo *address)
{
    const struct st_server_options *o = &s->options;
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

static enum strata_status start_daemon(struct st_server *s, struct strata_error *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    s->deadlines = st_deadlines_new(s->options.timeout_s);
    if (!s->deadlines) {
        return st_fail(err, STRATA_E_NOMEM, "", "cannot start a thread");
    }
    snprintf(port, sizeof port, "%u", s->options.port);
    int rc = getaddrinfo(s->options.host, port, &hints, &list);
    if (rc != 0) {
        return st_fail(err, STRATA_E_USAGE, "Give a name or an address of this machine.",
            "--host %s: %s", s->options.host, gai_strerror(rc));
    }
    s->daemon = listen_on(s, list);
    freeaddrinfo(list);
    return s->daemon ? STRATA_OK
                     : st_fail(err, STRATA_E_IO, "Perhaps something listens there already: --port.",
                           "cannot listen on %s, port %u", s->options.host, s->options.port);
}

uint16_t st_server_port(const struct st_server *s)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : s->options.port;
}

static void release(struct st_server *s)
{
    st_deadlines_free(s->deadlines);
    strata_chat_free(s->chat);
    free(s);
}

enum strata_status st_server_start(struct st_service *service,
    const struct st_server_options *options, struct st_server **out, struct strata_error *err)
{
    struct st_server *s = st_xcalloc(1, sizeof *s);
    s->options = *options;
    s->service = service;
    s->model = st_service_model(service);
    enum strata_status status = st_model_card_make(s, err);
    if (status == STRATA_OK && strata_model_has_text(s->model)) {
        status = strata_chat_new(s->model, options->chat_template, &s->chat, err);
    }
    if (status == STRATA_OK) {
        status = start_daemon(s, err);
    }
    if (status != STRATA_OK) {
        release(s);
        return status;
    }
    *out = s;
    return STRATA_OK;
}

void st_server_stop(struct st_server *s)
{
    if (s) {
        s->stopping = true;
        MHD_stop_daemon(s->daemon);
        release(s);
    }
}
