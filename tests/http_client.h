/* http_client.h - a client of the HTTP server, for tests. */
#ifndef TESTS_HTTP_CLIENT_H
#define TESTS_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Fails a test that would hang; much longer than a busy machine takes. */
#define PATIENCE_S 30

static inline int dial_port(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = PATIENCE_S};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

struct answer {
    int status;
    char *all;
    const char *body;
};

static inline void send_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0) {
            return; /* the server has refused the rest */
        }
        bytes += sent;
        n -= (size_t)sent;
    }
}

/* recv() that is not interrupted: with a time limit, SA_RESTART does not apply. */
static inline ssize_t receive(int fd, void *buf, size_t max)
{
    ssize_t n;
    do {
        n = recv(fd, buf, max, 0);
    } while (n < 0 && errno == EINTR);
    return n;
}

static inline struct answer read_answer(int fd)
{
    struct answer a = {0};
    size_t n = 0, cap = 1 << 20;
    ssize_t got;
    a.all = malloc(cap);
    while (n < cap - 1 && (got = receive(fd, a.all + n, cap - 1 - n)) > 0) {
        n += (size_t)got;
    }
    a.all[n] = 0;
    close(fd);
    sscanf(a.all, "HTTP/1.1 %d", &a.status);
    char *body = strstr(a.all, "\r\n\r\n");
    a.body = body ? body + 4 : "";
    return a;
}

#endif
