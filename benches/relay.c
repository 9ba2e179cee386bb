// The floor of the comparison: bytes forwarded between each client and a backend of its own, and nothing else.
//
// One thread, one epoll, no parsing, no pooling, no allocation while bytes flow: one recv and one send for what arrives
// on either side. A pooler that copies bytes through user space with plain sockets cannot cost less than this, so its
// cost is given as a ratio to it.
//
// What a peer does not take at once is kept and its source is not read until it is gone, so that large results stream
// in bounded memory and neither side can block the other clients.
//
// Build: cc -O2 -o relay relay.c        Run: relay LISTEN BACKEND        (ports on 127.0.0.1, or paths of Unix sockets)
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, EVENTS = 256, BACKLOG = 4096 };

// One socket of a pair.
struct end {
    int fd; // -1: closed, freed at the end of the turn
    struct end *other;
    struct end *next_closed;
    char *unsent; // what this socket has not taken yet, or NULL
    size_t unsent_at, unsent_end;
};

static int epoll;
static struct end *closed; // events of this turn may still point to these

static void fail(const char *what) {
    perror(what);
    exit(1);
}

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_un un;
};

static socklen_t length(const union address *address) {
    return address->any.sa_family == AF_UNIX ? sizeof address->un : sizeof address->in;
}

static union address parse(const char *text) {
    union address address = {.un = {.sun_family = AF_UNIX}};
    if (strchr(text, '/')) {
        if (strlen(text) >= sizeof address.un.sun_path) {
            fputs("the path of a socket is too long\n", stderr);
            exit(2);
        }
        strcpy(address.un.sun_path, text);
    } else {
        address.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        address.in.sin_port = htons((uint16_t)atoi(text));
    }
    return address;
}

static void watch(struct end *end, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = end};
    if (epoll_ctl(epoll, operation, end->fd, &event)) fail("epoll_ctl");
}

// Reads an end unless its peer is behind; waits for room when the end itself is.
static void rearm(struct end *end) {
    watch(end, EPOLL_CTL_MOD, (end->other->unsent ? 0 : EPOLLIN) | (end->unsent ? EPOLLOUT : 0));
}

static void hang_up(struct end *end) {
    if (end->fd < 0) return;
    close(end->fd);
    end->fd = -1;
    end->next_closed = closed;
    closed = end;
    hang_up(end->other);
}

static void bury(void) {
    while (closed) {
        struct end *end = closed;
        closed = end->next_closed;
        free(end->unsent);
        free(end);
    }
}

static struct end *new_end(int fd, int family) {
    int on = 1;
    struct end *end = calloc(1, sizeof *end);
    if (!end) fail("calloc");
    end->fd = fd;
    if (family == AF_INET) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return end;
}

static void accept_client(int listener, int family, const union address *backend) {
    int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return;
    int server = socket(backend->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || connect(server, &backend->any, length(backend))) {
        perror("backend");
        close(client);
        if (server >= 0) close(server);
        return;
    }
    struct end *near = new_end(client, family), *far = new_end(server, backend->any.sa_family);
    near->other = far;
    far->other = near;
    watch(near, EPOLL_CTL_ADD, EPOLLIN);
    watch(far, EPOLL_CTL_ADD, EPOLLIN);
}

// Keeps what `to` did not take, and reads nothing more for it.
static void keep(struct end *to, const char *bytes, size_t length) {
    to->unsent = malloc(length);
    if (!to->unsent) fail("malloc");
    memcpy(to->unsent, bytes, length);
    to->unsent_at = 0;
    to->unsent_end = length;
    rearm(to);
    rearm(to->other);
}

static void forward(struct end *from) {
    static char buffer[BUFFER];
    // MSG_DONTWAIT because the backend's socket, which connected synchronously, is a blocking one.
    ssize_t got = recv(from->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        hang_up(from);
        return;
    }
    ssize_t sent = send(from->other->fd, buffer, (size_t)got, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) {
        hang_up(from);
        return;
    }
    if (sent < 0) sent = 0;
    if (sent < got) keep(from->other, buffer + sent, (size_t)(got - sent));
}

static void send_unsent(struct end *to) {
    ssize_t sent = send(to->fd, to->unsent + to->unsent_at, to->unsent_end - to->unsent_at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        if (errno != EAGAIN) hang_up(to);
        return;
    }
    to->unsent_at += (size_t)sent;
    if (to->unsent_at < to->unsent_end) return;
    free(to->unsent);
    to->unsent = NULL;
    rearm(to);
    rearm(to->other);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: relay LISTEN BACKEND\n", stderr);
        return 2;
    }
    union address here = parse(argv[1]), backend = parse(argv[2]);
    int on = 1, listener = socket(here.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, &here.any, length(&here)) || listen(listener, BACKLOG)) fail("listen");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[EVENTS], accepting = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &accepting)) fail("epoll_ctl");
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct end *end = events[i].data.ptr;
            bool hung_up = events[i].events & (EPOLLHUP | EPOLLERR);
            if (!end) {
                accept_client(listener, here.any.sa_family, &backend);
            } else if (end->fd < 0) {
                continue; // closed earlier in this turn
            } else if (events[i].events & EPOLLOUT) {
                send_unsent(end);
            } else if (hung_up && !(events[i].events & EPOLLIN)) {
                hang_up(end);
            } else {
                forward(end);
            }
        }
        bury();
    }
}
