/* GETs in a circle over kept connections: libcurl's multi interface on epoll, as its manual has it.
 *
 * libcurl_in_c URL IN_FLIGHT SECONDS WARM_UP CORE BODY_SIZE HTTP_VERSION PROXY CA_FILE
 *
 * CORE is -1 for wherever the system likes; HTTP_VERSION 1 or 2; PROXY and CA_FILE may be empty.
 * Each response must have status 200 and a body of BODY_SIZE bytes. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <curl/curl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#define EVENTS 256

struct slot {
    CURL *easy;
    size_t received;
};

static CURLM *multi;
static int queue;
static double timer_end = -1.0; /* when libcurl wants to be called; below 0 never */

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "libcurl_in_c: %s: %s\n", what, detail);
    exit(1);
}

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *known) {
    struct epoll_event event = {.data.fd = fd};
    (void)easy, (void)data;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(queue, EPOLL_CTL_DEL, fd, &event);
        return 0;
    }
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
    if (epoll_ctl(queue, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl", "refused");
    if (!known)
        curl_multi_assign(multi, fd, &queue);
    return 0;
}

static int on_timer(CURLM *ours, long milliseconds, void *data) {
    (void)ours, (void)data;
    timer_end = milliseconds < 0 ? -1.0 : now(CLOCK_MONOTONIC) + milliseconds / 1e3;
    return 0;
}

static size_t on_body(char *bytes, size_t one, size_t size, void *slot) {
    (void)bytes, (void)one;
    ((struct slot *)slot)->received += size;
    return size;
}

/* Check what has ended; begin it anew while there is time. How many ended. */
static long finish(size_t body_size, double end, int *running) {
    CURLMsg *message;
    int left;
    long ended = 0;
    while ((message = curl_multi_info_read(multi, &left))) {
        CURL *easy = message->easy_handle;
        struct slot *slot;
        long status = 0;
        if (message->data.result != CURLE_OK)
            fail("transfer", curl_easy_strerror(message->data.result));
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&slot);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        if (status != 200 || slot->received != body_size)
            fail("response", "another status or size than expected");
        slot->received = 0;
        curl_multi_remove_handle(multi, easy);
        ended++;
        if (now(CLOCK_MONOTONIC) < end)
            curl_multi_add_handle(multi, easy);
        else
            --*running;
    }
    return ended;
}

/* Keep every slot busy for so many seconds; each makes one request at least. How many ended. */
static long run(struct slot *slots, int in_flight, double seconds, size_t body_size) {
    double end = now(CLOCK_MONOTONIC) + seconds;
    struct epoll_event events[EVENTS];
    int running = in_flight, unused;
    long ended = 0;
    for (int i = 0; i < in_flight; i++)
        curl_multi_add_handle(multi, slots[i].easy);
    while (running) {
        int wait = -1;
        if (timer_end >= 0) {
            double rest = timer_end - now(CLOCK_MONOTONIC);
            wait = rest <= 0 ? 0 : (int)(rest * 1e3) + 1;
        }
        int ready = epoll_wait(queue, events, EVENTS, wait);
        for (int i = 0; i < ready; i++) {
            int bits = (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
                       (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                       (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
            curl_multi_socket_action(multi, events[i].data.fd, bits, &unused);
        }
        if (timer_end >= 0 && timer_end <= now(CLOCK_MONOTONIC)) {
            timer_end = -1.0;
            curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &unused);
        }
        ended += finish(body_size, end, &running);
    }
    return ended;
}

static CURL *make(struct slot *slot, char **argv) {
    CURL *easy = curl_easy_init();
    int http2 = atoi(argv[7]) == 2;
    curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, slot);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, slot);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                     (long)(http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, (long)http2);
    curl_easy_setopt(easy, CURLOPT_PROXY, argv[8]); /* "" keeps the environment's out */
    if (*argv[9])
        curl_easy_setopt(easy, CURLOPT_CAINFO, argv[9]);
    return easy;
}

int main(int argc, char **argv) {
    if (argc != 10)
        fail("usage", "nine arguments, see the source");
    int in_flight = atoi(argv[2]), core = atoi(argv[5]);
    size_t body_size = strtoul(argv[6], NULL, 10);
    if (core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(core, &cores);
        if (sched_setaffinity(0, sizeof cores, &cores))
            fail("core", argv[5]);
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    curl_global_init(CURL_GLOBAL_DEFAULT);
    queue = epoll_create1(EPOLL_CLOEXEC);
    multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)in_flight);
    struct slot *slots = calloc(in_flight, sizeof *slots);
    for (int i = 0; i < in_flight; i++)
        slots[i].easy = make(&slots[i], argv);

    run(slots, in_flight, atof(argv[4]), body_size);
    double begun = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    long requests = run(slots, in_flight, atof(argv[3]), body_size);
    printf("{\"requests\": %ld, \"seconds\": %.9f, \"cpu_seconds\": %.9f}\n", requests,
           now(CLOCK_MONOTONIC) - begun, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);

    for (int i = 0; i < in_flight; i++)
        curl_easy_cleanup(slots[i].easy);
    curl_multi_cleanup(multi);
    return 0;
}
