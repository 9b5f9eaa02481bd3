/*
 * listener.c - see listener.h.
 *
 * SO_REUSEADDR is set, so that a server can be restarted at once. It does not allow two servers to
 * listen on one address; SO_REUSEPORT, which would, is not set. The sockets do not block: a client
 * may have left between poll and accept.
 */
#include "serve/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

#define SOCKETS_MAX 8
#define NAMES_MAX   2
#define BACKLOG     256
#define UNIX_PREFIX "unix:"
#define TRIES       16 /* for a free port on every address */

struct fb_listener {
    int sockets[SOCKETS_MAX];
    int n;
    int wake[2]; /* a pipe; its end wakes fb_listener_accept */
    uint16_t port;
    bool local;
    int turn;                                               /* the socket that is asked first */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "": TCP */
    dev_t device;                                           /* of the Unix socket */
    ino_t inode;
};

/* --- Addresses ----------------------------------------------------------------------------- */

static bool is_local(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
    }
    const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
    return IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
}

static bool is_every_v6(const struct sockaddr *address)
{
    const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&in->sin6_addr);
}

static void set_port(struct sockaddr *address, uint16_t port)
{
    if (address->sa_family == AF_INET) {
        ((struct sockaddr_in *)(void *)address)->sin_port = htons(port);
    } else {
        ((struct sockaddr_in6 *)(void *)address)->sin6_port = htons(port);
    }
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &n) != 0) {
        return 0;
    }
    return ntohs(address.ss_family == AF_INET
                     ? ((struct sockaddr_in *)(void *)&address)->sin_port
                     : ((struct sockaddr_in6 *)(void *)&address)->sin6_port);
}

/* --- Sockets ------------------------------------------------------------------------------- */

static void close_sockets(struct fb_listener *l)
{
    for (int i = 0; i < l->n; i++) {
        close(l->sockets[i]);
    }
    l->n = 0;
}

/* Listens on one address; returns 0 or an errno. */
static int listen_on(struct fb_listener *l, const struct sockaddr *address, socklen_t length)
{
    int one = 1, only = !is_every_v6(address);
    int fd = socket(address->sa_family, SOCK_STREAM, 0);
    if (fd < 0) {
        return errno;
    }
    if (address->sa_family != AF_UNIX) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (address->sa_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0 ||
        bind(fd, address, length) != 0 || listen(fd, BACKLOG) != 0) {
        int errnum = errno;
        close(fd);
        return errnum;
    }
    l->sockets[l->n++] = fd;
    return 0;
}

/* A machine without IPv6 may have names with an address of it. */
static bool is_missing(int errnum)
{
    return errnum == EADDRNOTAVAIL || errnum == EAFNOSUPPORT;
}

/* Some systems list an address twice. */
static bool is_repeated(const struct addrinfo *list, const struct addrinfo *address)
{
    const struct addrinfo *a = list;
    while (a != address && (a->ai_addrlen != address->ai_addrlen ||
                               memcmp(a->ai_addr, address->ai_addr, a->ai_addrlen) != 0)) {
        a = a->ai_next;
    }
    return a != address;
}

/* Adds sockets for the addresses of a name; returns 0 or an errno. */
static int listen_on_list(struct fb_listener *l, const struct addrinfo *list)
{
    int missing = 0;
    for (const struct addrinfo *a = list; a && l->n < SOCKETS_MAX; a = a->ai_next) {
        if ((a->ai_family != AF_INET && a->ai_family != AF_INET6) || is_repeated(list, a)) {
            continue;
        }
        set_port(a->ai_addr, l->port);
        int errnum = listen_on(l, a->ai_addr, a->ai_addrlen);
        set_port(a->ai_addr, 0);
        if (errnum == 0) {
            l->port = l->port ? l->port : port_of(l->sockets[0]);
            l->local = l->local && is_local(a->ai_addr);
        } else if (is_missing(errnum)) {
            missing = errnum;
        } else {
            return errnum;
        }
    }
    return l->n > 0 ? 0 : missing;
}

/* Listens on all addresses of the names and on the same port; returns 0 or an errno. */
static int listen_on_all(struct fb_listener *l, struct addrinfo *const *lists, uint16_t port)
{
    int errnum = 0;
    l->local = true;
    l->port = port;
    for (int i = 0; i < NAMES_MAX && lists[i] && errnum == 0; i++) {
        errnum = listen_on_list(l, lists[i]);
    }
    errnum = errnum == 0 && l->n == 0 ? EADDRNOTAVAIL : errnum;
    if (errnum != 0) {
        close_sockets(l);
    }
    return errnum;
}

/* --- Opening ------------------------------------------------------------------------------- */

static enum forebay_status fail_listen(
    const char *host, uint16_t port, int errnum, struct forebay_error *err)
{
    return fb_fail_errno(err, FOREBAY_E_IO, errnum,
        errnum == EADDRINUSE ? "Another program listens there: choose another --port."
        : errnum == EACCES   ? "Choose a --port of 1024 or more."
                             : "Give a name or an address of this machine.",
        "cannot listen on %s, port %u", host, port);
}

/* Looks up `host`; localhost is two addresses, of which some systems know only one. Returns 0 or an
 * error of getaddrinfo. */
static int resolve(const char *host, struct addrinfo **lists)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    if (strcmp(host, "localhost") != 0) {
        return getaddrinfo(host, "0", &hints, &lists[0]);
    }
    int rc = getaddrinfo("127.0.0.1", "0", &hints, &lists[0]);
    if (rc == 0 && getaddrinfo("::1", "0", &hints, &lists[1]) != 0) {
        lists[1] = NULL;
    }
    return rc;
}

static enum forebay_status open_tcp(
    struct fb_listener *l, const char *host, uint16_t port, struct forebay_error *err)
{
    char name[256];
    size_t n = strlen(host);
    bool brackets = n > 2 && host[0] == '[' && host[n - 1] == ']';
    struct addrinfo *lists[NAMES_MAX] = {0};
    snprintf(name, sizeof name, "%.*s", (int)(brackets ? n - 2 : n), host + brackets);
    int rc = resolve(name, lists), errnum = EADDRINUSE;
    if (rc != 0) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a name or an address of this machine.",
            "--host %s: %s", host, gai_strerror(rc));
    }
    for (int i = 0; i < (port ? 1 : TRIES) && errnum == EADDRINUSE; i++) {
        errnum = listen_on_all(l, lists, port);
    }
    for (int i = 0; i < NAMES_MAX && lists[i]; i++) {
        freeaddrinfo(lists[i]);
    }
    return errnum == 0 ? FOREBAY_OK : fail_listen(host, port, errnum, err);
}

/* Removes a socket that nobody listens on any more. False if somebody does. */
static bool remove_stale(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0) {
        return true;
    }
    int fd = S_ISSOCK(st.st_mode) ? socket(AF_UNIX, SOCK_STREAM, 0) : -1;
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 &&
                 errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    return stale && unlink(address->sun_path) == 0;
}

static enum forebay_status open_unix(
    struct fb_listener *l, const char *path, struct forebay_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    if (!path[0] || strlen(path) >= sizeof address.sun_path) {
        return fb_fail(err, FOREBAY_E_USAGE, "Give a shorter path, such as unix:/tmp/forebay.sock.",
            "--host unix:%s: the path of a socket has 1 to %zu bytes", path,
            sizeof address.sun_path - 1);
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (!remove_stale(&address)) {
        return fb_fail(err, FOREBAY_E_IO, "Choose another path, or remove the file.",
            "cannot listen on %s: it is in use, or not a socket", path);
    }
    int errnum = listen_on(l, (const struct sockaddr *)&address, sizeof address);
    if (errnum != 0) {
        return fb_fail_errno(err, FOREBAY_E_IO, errnum, "Check the path given with --host.",
            "cannot listen on %s", path);
    }
    if (lstat(path, &st) == 0) {
        l->device = st.st_dev;
        l->inode = st.st_ino;
    }
    l->local = true;
    snprintf(l->path, sizeof l->path, "%s", path);
    return FOREBAY_OK;
}

enum forebay_status fb_listener_open(
    const char *host, uint16_t port, struct fb_listener **out, struct forebay_error *err)
{
    struct fb_listener *l = fb_xcalloc(1, sizeof *l);
    if (pipe(l->wake) != 0) {
        int errnum = errno;
        free(l);
        return fb_fail_errno(err, FOREBAY_E_IO, errnum, "", "cannot make a pipe");
    }
    fcntl(l->wake[0], F_SETFD, FD_CLOEXEC);
    fcntl(l->wake[1], F_SETFD, FD_CLOEXEC);
    enum forebay_status status = fb_listener_is_unix(host)
                                     ? open_unix(l, host + strlen(UNIX_PREFIX), err)
                                     : open_tcp(l, host, port, err);
    if (status != FOREBAY_OK) {
        fb_listener_close(l);
        return status;
    }
    *out = l;
    return FOREBAY_OK;
}

void fb_listener_close(struct fb_listener *l)
{
    struct stat st;
    if (!l) {
        return;
    }
    if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode) {
        unlink(l->path);
    }
    close_sockets(l);
    close(l->wake[0]);
    if (l->wake[1] >= 0) {
        close(l->wake[1]);
    }
    free(l);
}

/* --- Facts --------------------------------------------------------------------------------- */

bool fb_listener_is_unix(const char *host)
{
    return strncmp(host, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0;
}

uint16_t fb_listener_port(const struct fb_listener *l)
{
    return l->port;
}

bool fb_listener_is_local(const struct fb_listener *l)
{
    return l->local;
}

/* --- Accepting ----------------------------------------------------------------------------- */

int fb_listener_accept(struct fb_listener *l, struct sockaddr_storage *client, socklen_t *length)
{
    struct pollfd wait[SOCKETS_MAX + 1];
    for (;;) {
        for (int i = 0; i < l->n; i++) {
            wait[i] = (struct pollfd){.fd = l->sockets[i], .events = POLLIN};
        }
        wait[l->n] = (struct pollfd){.fd = l->wake[0], .events = POLLIN};
        if (poll(wait, (nfds_t)l->n + 1, -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -1;
        }
        if (wait[l->n].revents) {
            errno = ECANCELED;
            return -1;
        }
        for (int i = 0; i < l->n; i++) {
            int at = (l->turn + i) % l->n;
            *length = sizeof *client;
            int fd =
                wait[at].revents ? accept(l->sockets[at], (struct sockaddr *)client, length) : -1;
            if (fd >= 0) {
                l->turn = at + 1;
                fcntl(fd, F_SETFD, FD_CLOEXEC);
                return fd;
            }
            if (wait[at].revents && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR &&
                errno != ECONNABORTED) {
                return -1;
            }
        }
    }
}

void fb_listener_stop(struct fb_listener *l)
{
    if (l->wake[1] >= 0) {
        close(l->wake[1]);
        l->wake[1] = -1;
    }
}
