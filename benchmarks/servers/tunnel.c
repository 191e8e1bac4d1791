/* A proxy that knows CONNECT only, to one port of 127.0.0.1, in one thread over epoll: as little work
 * between the two ends as there can be, since it shares a core with one of them.
 *
 *     tunnel NAMED_PORT ORIGIN_PORT CORE
 *
 * listens on a free port of 127.0.0.1 and prints it. A CONNECT has to name NAMED_PORT, and leads to
 * ORIGIN_PORT. CORE may be "-" for wherever the system likes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, HEAD = 8 * 1024, EVENTS = 256 };

/* One socket. What it has received and its peer has not yet taken waits in `pending`; until that is
 * sent, nothing more is read. */
struct end {
    int fd;
    int connected; /* a client's: whether CONNECT was answered */
    struct end *peer;
    struct end *next_free;
    size_t used, sent;
    char *pending;
};

static int poller;
static struct end *closed; /* freed when no event of the current batch can name them any more */
static const char ESTABLISHED[] = "HTTP/1.1 200 Connection established\r\n\r\n";
static const char REFUSED[] = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
static char wanted[32];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(struct end *end, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = end};
    if (epoll_ctl(poller, how, end->fd, &event)) fail("epoll_ctl");
}

static struct end *new_end(int fd) {
    struct end *end = calloc(1, sizeof *end);
    int one = 1;
    if (!end) fail("calloc");
    end->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return end;
}

static void close_one(struct end *end) {
    close(end->fd);
    end->fd = -1;
    end->next_free = closed;
    closed = end;
}

static void close_both(struct end *end) {
    if (end->peer) close_one(end->peer);
    close_one(end);
}

/* Read from `end` if its peer has taken all, and write to it if it has not. */
static void watch_again(struct end *end) {
    watch(end, (end->used ? 0 : EPOLLIN) | (end->peer->used ? EPOLLOUT : 0), EPOLL_CTL_MOD);
}

/* Send what `end` received to its peer; -1 if that has gone. */
static int pass_on(struct end *end) {
    while (end->sent < end->used) {
        ssize_t count = send(end->peer->fd, end->pending + end->sent, end->used - end->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) {
            watch_again(end);
            watch_again(end->peer);
            return 0;
        }
        if (count <= 0) return -1;
        end->sent += count;
    }
    free(end->pending);
    end->pending = NULL;
    end->used = end->sent = 0;
    return 0;
}

/* Read from `end`, and hand it on without a copy of our own where the peer takes it at once. */
static int move(struct end *end) {
    static char buffer[BUFFER];
    ssize_t count = recv(end->fd, buffer, BUFFER, 0), sent;
    if (count < 0 && errno == EAGAIN) return 0;
    if (count <= 0) return -1;
    sent = send(end->peer->fd, buffer, count, MSG_NOSIGNAL);
    if (sent == count) return 0;
    if (sent < 0 && errno != EAGAIN) return -1;
    if (sent < 0) sent = 0;
    end->pending = malloc(count - sent);
    if (!end->pending) fail("malloc");
    memcpy(end->pending, buffer + sent, count - sent);
    end->used = count - sent;
    return pass_on(end);
}

/* The head of a client's CONNECT; what comes behind it is not taken from the socket. */
static int greet(struct end *end, int origin_port) {
    char head[HEAD + 1], *stop, *line_end;
    struct sockaddr_in origin = {.sin_family = AF_INET, .sin_port = htons(origin_port)};
    ssize_t count = recv(end->fd, head, HEAD, MSG_PEEK);
    int fd;
    if (count < 0 && errno == EAGAIN) return 0;
    if (count <= 0) return -1;
    head[count] = 0;
    stop = strstr(head, "\r\n\r\n");
    if (!stop) return count == HEAD ? -1 : 0;
    recv(end->fd, head, stop + 4 - head, 0);
    line_end = strstr(head, "\r\n");
    *line_end = 0;
    if (strncmp(head, "CONNECT ", 8) || !strstr(head, wanted)) {
        send(end->fd, REFUSED, sizeof REFUSED - 1, MSG_NOSIGNAL);
        return -1;
    }
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return -1;
    origin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&origin, sizeof origin)) { /* loopback does not wait */
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    end->peer = new_end(fd);
    end->peer->peer = end;
    end->peer->connected = end->connected = 1;
    if (send(end->fd, ESTABLISHED, sizeof ESTABLISHED - 1, MSG_NOSIGNAL) < 0) return -1;
    watch(end->peer, EPOLLIN, EPOLL_CTL_ADD);
    return 0;
}

static void serve(struct end *end, uint32_t events, int origin_port) {
    int gone = 0;
    if (end->fd < 0) return; /* closed by an earlier event of this batch */
    if (!end->connected) {
        gone = greet(end, origin_port);
    } else {
        if (events & EPOLLOUT) {
            gone = pass_on(end->peer);
            if (!gone && !end->peer->used) {
                watch_again(end);
                watch_again(end->peer);
            }
        }
        if (!gone && events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !end->used) gone = move(end);
        if (!gone && end->used && events & (EPOLLHUP | EPOLLERR)) gone = -1;
    }
    if (gone) close_both(end);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct epoll_event events[EVENTS];
    struct rlimit files;
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), origin_port;
    if (argc != 4) return 2;
    origin_port = atoi(argv[2]);
    snprintf(wanted, sizeof wanted, ":%d ", atoi(argv[1]));
    if (strcmp(argv[3], "-")) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(atoi(argv[3]), &cores);
        if (sched_setaffinity(0, sizeof cores, &cores)) fail("sched_setaffinity");
    }
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 4096) || getsockname(listener, (struct sockaddr *)&address, &length))
        fail("listen");
    poller = epoll_create1(0);
    watch(&(struct end){.fd = listener}, EPOLLIN, EPOLL_CTL_ADD); /* lives as long as main */
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct end *end = events[i].data.ptr;
            if (end->fd != listener) {
                serve(end, events[i].events, origin_port);
                continue;
            }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;)
                watch(new_end(fd), EPOLLIN, EPOLL_CTL_ADD);
        }
        while (closed) {
            struct end *end = closed;
            closed = end->next_free;
            free(end->pending);
            free(end);
        }
    }
}
