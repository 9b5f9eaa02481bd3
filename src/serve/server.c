/*
 * server.c - connections, limits and API keys: the life of a request until its handler is called.
 *
 * A thread of ours accepts connections and hands them to libmicrohttpd, which has a thread for each
 * and calls on_request several times per request:
 *
 *   request line --note_uri--> headers --receive--> body, in pieces --add_body--> end --answer-->
 *                                  '- refused (status and reason are stored)        |
 *                                                  handler, or the stored refusal <-'
 *
 * A refused body is read and discarded, as most clients do not read an answer before they have sent
 * all; but one whose announced length is too large is refused at once, and one that is much larger
 * than allowed is cut off. After a request whose end is uncertain the connection is closed.
 *
 * The server listens before the model is loaded. Until fb_server_serve, requests wait a little and
 * get a 503; when all places are being answered, they get it at once. /health is always answered.
 */
#include "serve/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/heap.h"
#include "os/thread.h"
#include "os/timed_wait.h"
#include "serve/answer.h"
#include "serve/framing.h"
#include "serve/hosts.h"
#include "serve/listener.h"
#include "serve/origins.h"
#include "serve/routes.h"
#include "serve/served.h"

#define HEADERS_MAX_BYTES ((size_t)64 << 10)
#define DISCARD_FACTOR    4 /* a body of more than this times the limit is cut off */
#define SHARE_STEP        (16 * FB_KIB)
#define LOADED_WAIT_NS    (3 * (uint64_t)1000000000)
#define SEND_MS           2000 /* for the last bytes of cancelled answers */

struct fb_server {
    struct fb_server_options options;
    struct fb_served served; /* valid if `loaded` */
    _Atomic bool loaded;
    bool stopped; /* guarded by `lock`; `loaded` changes under it, too */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fb_listener *listener;
    struct fb_connections *connections;
    struct fb_request_memory *memory;
    struct MHD_Daemon *daemon;
    pthread_t acceptor;
    bool accepting; /* `acceptor` runs */
};

/* A request that is being received. */
struct intake {
    struct fb_request request;
    struct fb_server *server;
    struct fb_route_match match;
    const char *uri_end;     /* the byte after the URI's terminator */
    bool begun;              /* the headers have been received */
    bool is_early;           /* refused without waiting for the body */
    uint64_t received_bytes; /* of the body */
    bool preflight;          /* a browser asks what it may send */
    int refused;             /* HTTP status; 0: it is not */
    char reason[256];
};

static const char *header(const struct intake *in, const char *name)
{
    return MHD_lookup_connection_value(in->request.connection, MHD_HEADER_KIND, name);
}

/* --- Connections --------------------------------------------------------------------------- */

static struct fb_connection *peer_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void note_client(struct fb_connection *c, const struct sockaddr *address)
{
    const void *ip = NULL;
    int family = address ? address->sa_family : AF_UNSPEC;
    if (family == AF_INET) {
        ip = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
    } else if (family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
        bool v4 = IN6_IS_ADDR_V4MAPPED(&in->sin6_addr);
        ip = v4 ? &in->sin6_addr.s6_addr[12] : in->sin6_addr.s6_addr;
        family = v4 ? AF_INET : AF_INET6;
    }
    if (ip) {
        inet_ntop(family, ip, c->client, sizeof c->client);
    }
}

/* A connection was opened or is about to be closed. */
static void on_connection(void *user, struct MHD_Connection *connection, void **context,
    enum MHD_ConnectionNotificationCode what)
{
    struct fb_server *s = user;
    struct fb_connection *c = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = c = fb_xcalloc(1, sizeof *c);
        c->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        note_client(c,
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
        fb_connection_open(s->connections, c);
    } else {
        fb_connection_close(s->connections, c);
        free(c);
    }
}

static void add_connection(
    struct fb_server *s, int fd, const struct sockaddr *address, socklen_t length)
{
    if (!fb_connections_reserve(s->connections)) {
        close(fd);
    } else if (MHD_add_connection(s->daemon, fd, address, length) != MHD_YES) {
        fb_connections_unreserve(s->connections);
    }
}

/* Accepts until the listener is stopped. Without a descriptor or memory for one more connection,
 * another one ends, or we wait a little. */
static void *accept_all(void *user)
{
    struct fb_server *s = user;
    struct sockaddr_storage address;
    socklen_t length;
    for (;;) {
        int fd = fb_listener_accept(s->listener, &address, &length);
        if (fd >= 0) {
            add_connection(s, fd, (struct sockaddr *)&address, length);
        } else if (errno == ECANCELED) {
            return NULL;
        } else {
            fb_debug("http: cannot accept a connection: %s", strerror(errno));
            fb_connections_evict(s->connections);
        }
    }
}

/* --- Permission ---------------------------------------------------------------------------- */

/* Takes a time that depends on the length of `offered` only. */
static bool same_key(const char *offered, const char *key)
{
    size_t n = strlen(offered), n_key = strlen(key);
    volatile unsigned char differ = n != n_key;
    for (size_t i = 0; i < n; i++) {
        differ |= (unsigned char)(offered[i] ^ key[i % (n_key + 1)]);
    }
    return differ == 0;
}

static bool has_key(const struct intake *in)
{
    const char *key = in->server->options.api_key;
    const char *bearer = header(in, "Authorization"), *plain = header(in, "x-api-key");
    if (!key || (in->match.route && in->match.route->flags & FB_ROUTE_OPEN)) {
        return true;
    }
    bool good = bearer && strncasecmp(bearer, "Bearer ", 7) == 0 && same_key(bearer + 7, key);
    return good | (plain && same_key(plain, key));
}

/* A page that browsers are told about: they let it read the answers. */
static bool is_allowed_page(const struct intake *in, const char *origin)
{
    return fb_host_is_loopback(origin) || fb_origins_allow(in->server->options.origins, origin);
}

/* A web page of another site must not use a server without a key: neither directly (Origin), nor by
 * a name of its own that resolves to this machine (Host). A server that other machines can reach
 * may have any name in Host, so there the page's own name must be one that only local networks
 * have. */
static bool is_foreign_page(const struct intake *in)
{
    const struct fb_server *s = in->server;
    const char *host = header(in, "Host"), *origin = header(in, "Origin");
    if (s->options.api_key || fb_listener_is_unix(s->options.host)) {
        return false;
    }
    bool local = fb_listener_is_local(s->listener);
    if (origin && !is_allowed_page(in, origin) && (local || !fb_host_is_own_page(origin, host))) {
        return true;
    }
    return local && host && !fb_host_is_loopback(host) && !fb_host_is(host, s->options.host) &&
           !fb_origins_allow_host(s->options.origins, host);
}

/* --- Receiving a request ------------------------------------------------------------------- */

/* The first refusal counts. */
__attribute__((format(printf, 3, 4))) static void refuse(
    struct intake *in, int status, const char *format, ...)
{
    if (!in->refused) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(in->reason, sizeof in->reason, format, ap);
        va_end(ap);
        in->refused = status;
    }
}

static void refuse_size(struct intake *in)
{
    refuse(in, 413, "the body is larger than the limit of %s (--body-max)",
        FB_SIZE(in->server->options.body_max_bytes));
}

static void refuse_memory(struct intake *in, uint64_t bytes)
{
    uint64_t most = fb_request_memory_most(in->server->memory);
    if (bytes > most) {
        refuse(in, 413,
            "reading the request takes about %s of memory, and the server has %s for one request "
            "(a larger --mem gives more)",
            FB_SIZE(bytes), FB_SIZE(most));
    } else {
        refuse(in, 503, "the server has no memory for the request now; try again later");
    }
}

/* Without permission, nothing is said about paths. */
static void check_permission(struct intake *in, const char *method, const char *path)
{
    const char *origin = header(in, "Origin");
    bool asks = strcmp(method, "OPTIONS") == 0 && in->match.allow[0];
    if (origin && is_allowed_page(in, origin)) {
        in->request.origin = origin;
    }
    if (is_foreign_page(in)) {
        refuse(in, 403,
            "requests from web pages of other sites are refused while the server has no --api-key; "
            "--origins allows some");
    } else if (asks) { /* browsers send no key with it */
        in->preflight = true;
    } else if (!has_key(in)) {
        refuse(in, 401, "wrong or missing API key: send 'Authorization: Bearer KEY'");
    } else if (in->match.status == 404) {
        refuse(in, 404, "no such path: %s", path);
    } else if (in->match.status == 405) {
        refuse(in, 405, "method %s is not allowed for %s; use %s", method, path, in->match.allow);
    }
}

static void check_state(struct intake *in)
{
    bool open = in->match.route && in->match.route->flags & FB_ROUTE_OPEN;
    if (!open && fb_connections_are_answered(in->request.connections)) {
        refuse(in, 503, "the server has too many connections; try again later");
        in->is_early = in->request.close = true;
    }
}

/* Waits a little for a model that is being loaded: small ones are soon there. */
static void wait_until_loaded(struct intake *in)
{
    struct fb_server *s = in->server;
    uint64_t until = fb_now_ns() + LOADED_WAIT_NS;
    bool in_time = true;
    pthread_mutex_lock(&s->lock);
    while (!s->loaded && !s->stopped && in_time) {
        in_time = fb_timed_wait(&s->changed, &s->lock, until);
    }
    in->request.served = s->loaded ? &s->served : NULL;
    pthread_mutex_unlock(&s->lock);
    if (!in->request.served) {
        refuse(in, 503, "the model is still being loaded; try again later");
    }
}

static void check_length(struct intake *in)
{
    const char *length = header(in, "Content-Length");
    uint64_t n = length ? strtoull(length, NULL, 10) : 0;
    if (n > in->server->options.body_max_bytes) {
        refuse_size(in);
        in->is_early |= in->refused == 413;
    } else if (n > fb_request_memory_most(in->server->memory)) {
        refuse_memory(in, n);
    }
}

/* The request line was received; nothing of it has been changed yet. */
static void *note_uri(void *user, const char *uri, struct MHD_Connection *connection)
{
    struct intake *in = fb_xcalloc(1, sizeof *in);
    struct fb_request *r = &in->request;
    in->server = user;
    in->uri_end = uri ? uri + strlen(uri) + 1 : NULL;
    r->connection = connection;
    r->connections = in->server->connections;
    r->peer = peer_of(connection);
    r->memory = in->server->memory;
    r->result = MHD_NO;
    fb_buffer_init(&r->body);
    fb_share_open(r->memory, &r->share, r->peer->fd);
    return in;
}

/* The headers were received. */
static void receive(struct intake *in, const char *method, const char *path, const char *version)
{
    struct fb_request *r = &in->request;
    const char *fault = fb_framing_fault(r->connection, method, version, in->uri_end);
    in->begun = true;
    fb_route_find(method, path, &in->match);
    r->served = in->server->loaded ? &in->server->served : NULL;
    r->api = in->match.api;
    r->allow = in->match.allow;
    snprintf(r->rest, sizeof r->rest, "%s", in->match.rest);
    snprintf(r->client, sizeof r->client, "%s", r->peer->client);
    if (fault) {
        refuse(in, 400, "%s", fault);
        in->is_early = r->close = true;
    }
    check_permission(in, method, path);
    check_state(in);
    check_length(in);
    fb_connection_receive(r->connections, r->peer); /* the body has a deadline of its own */
}

static void discard_body(struct intake *in)
{
    struct fb_request *r = &in->request;
    fb_buffer_release(&r->body);
    fb_share_set(r->memory, &r->share, 0);
}

/* Receives a piece of the body. False: close the connection. */
static bool add_body(struct intake *in, const char *data, size_t n)
{
    struct fb_request *r = &in->request;
    uint64_t max = in->server->options.body_max_bytes;
    in->received_bytes += n;
    if (!in->refused && in->received_bytes > max) {
        refuse_size(in);
        discard_body(in);
    }
    uint64_t bytes = fb_round_up(in->received_bytes, SHARE_STEP);
    if (!in->refused && bytes > r->share.bytes && !fb_share_set(r->memory, &r->share, bytes)) {
        refuse_memory(in, bytes);
        discard_body(in);
    }
    if (!in->refused) {
        fb_buffer_add(&r->body, data, n);
    }
    return in->received_bytes <= DISCARD_FACTOR * max;
}

/* Makes room for what the handler will make of the body. */
static void reserve_memory(struct intake *in)
{
    struct fb_request *r = &in->request;
    uint64_t bytes = r->body.n > 0 ? fb_json_bytes(r->body.data, r->body.n) : 0;
    if (bytes > r->share.bytes && !fb_share_set(r->memory, &r->share, bytes)) {
        refuse_memory(in, bytes);
        discard_body(in);
    }
}

static void answer(struct intake *in)
{
    struct fb_request *r = &in->request;
    fb_share_received(r->memory, &r->share);
    fb_connection_compute(r->connections, r->peer);
    const struct fb_route *route = in->match.route; /* NULL: refused, or a preflight */
    if (!in->refused && !r->served && route && !(route->flags & FB_ROUTE_OPEN)) {
        wait_until_loaded(in);
    }
    if (!in->refused) {
        reserve_memory(in);
    }
    if (in->refused) {
        fb_answer_error(r, in->refused, "%s", in->reason);
    } else if (in->preflight) {
        fb_request_preflight(r, header(in, "Access-Control-Request-Headers"),
            header(in, "Access-Control-Request-Private-Network") != NULL);
    } else {
        in->match.route->handle(r);
    }
    FB_ASSERT(r->answered);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
    const char *method, const char *version, const char *data, size_t *n, void **state)
{
    struct intake *in = *state;
    (void)user, (void)connection;
    if (!in->begun) {
        receive(in, method, path, version);
        if (in->is_early) { /* before the client sends all of it */
            answer(in);
            return in->request.result;
        }
        return MHD_YES;
    }
    if (*n > 0) {
        bool go_on = add_body(in, data, *n);
        *n = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    if (!in->request.answered) {
        answer(in);
    }
    return in->request.result;
}

/* A request is over, answered or not. */
static void on_end(void *user, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode why)
{
    struct fb_server *s = user;
    struct intake *in = *state;
    (void)why;
    fb_connection_receive(s->connections, peer_of(connection)); /* the next request */
    if (in) {
        fb_buffer_release(&in->request.body);
        fb_share_close(s->memory, &in->request.share);
        free(in);
        *state = NULL;
    }
}

/* A NUL in a path must not end it: "/v1/models%00x" is no path of ours. */
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
        .requests_bytes = 128 * FB_MIB,
        .connections_max = 128,
        .timeout_s = 60,
    };
}

/* libmicrohttpd has no socket to listen on and no timeout: see listener.h and connections.h. */
static struct MHD_Daemon *start_daemon(struct fb_server *s)
{
    unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                     MHD_USE_POLL | MHD_USE_ERROR_LOG | MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET;
    unsigned most = (unsigned)s->options.connections_max + 2 * FB_CONNECTIONS_SURPLUS;
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log,
        NULL, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_URI_LOG_CALLBACK, note_uri,
        s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_NOTIFY_COMPLETED, on_end, s,
        MHD_OPTION_CONNECTION_LIMIT, most, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEADERS_MAX_BYTES, MHD_OPTION_END);
}

enum forebay_status fb_server_open(
    const struct fb_server_options *options, struct fb_server **out, struct forebay_error *err)
{
    struct fb_server *s = fb_xcalloc(1, sizeof *s);
    s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    fb_timed_wait_init(&s->changed);
    fb_heap_share();
    enum forebay_status status = fb_listener_open(options->host, options->port, &s->listener, err);
    if (status == FOREBAY_OK) {
        s->memory = fb_request_memory_new(options->requests_bytes);
        s->connections = fb_connections_new(options->timeout_s, options->connections_max);
        s->daemon = s->connections ? start_daemon(s) : NULL;
        s->accepting = s->daemon && fb_thread_start(&s->acceptor, accept_all, s) == 0;
        if (!s->accepting) {
            status = fb_fail(err, FOREBAY_E_NOMEM, "", "cannot start a thread");
        }
    }
    if (status != FOREBAY_OK) {
        fb_server_stop(s);
        return status;
    }
    *out = s;
    return FOREBAY_OK;
}

enum forebay_status fb_server_serve(
    struct fb_server *s, struct fb_service *service, struct forebay_error *err)
{
    const struct fb_server_options *o = &s->options;
    enum forebay_status status =
        fb_served_init(&s->served, service, o->name, o->path, o->chat_template, err);
    s->served.client_templates = o->client_templates;
    pthread_mutex_lock(&s->lock);
    s->loaded = status == FOREBAY_OK;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return status;
}

uint16_t fb_server_port(const struct fb_server *s)
{
    return fb_listener_port(s->listener);
}

bool fb_server_is_local(const struct fb_server *s)
{
    return fb_listener_is_local(s->listener);
}

void fb_server_cancel(struct fb_server *s)
{
    s->served.stopping = true;
    fb_request_memory_stop(s->memory);
    fb_connections_wait_unanswered(s->connections, SEND_MS);
}

void fb_server_stop(struct fb_server *s)
{
    if (!s) {
        return;
    }
    s->served.stopping = true;
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->memory) {
        fb_request_memory_stop(s->memory);
    }
    if (s->accepting) {
        fb_listener_stop(s->listener);
        pthread_join(s->acceptor, NULL);
    }
    if (s->daemon) {
        MHD_stop_daemon(s->daemon);
    }
    fb_listener_close(s->listener);
    fb_connections_free(s->connections);
    fb_request_memory_free(s->memory);
    fb_served_release(&s->served);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
