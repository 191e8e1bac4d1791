/* GETs in a circle over kept connections: libcurl's multi interface on epoll, as its manual has it.
 *
 * libcurl_in_c URL IN_FLIGHT SECONDS WARM_UP CORE BODY HTTP_VERSION PROXY CA_FILE
 *
 * CORE is -1 for wherever the system likes; HTTP_VERSION 1 or 2; PROXY and CA_FILE may be empty.
 * Each response must have status 200 and BODY. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <curl/curl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#define EVENTS 256

struct slot {
    CURL *easy;
    size_t received; /* bytes of the body */
    int differs;     /* whether one of them is not the expected one */
    int answered;    /* whether there was a response in this run */
};

static CURLM *multi;
static const char *body; /* of each response */
static size_t body_size;
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

static size_t on_body(char *bytes, size_t one, size_t size, void *data) {
    struct slot *slot = data;
    (void)one;
    if (slot->received + size > body_size || memcmp(bytes, body + slot->received, size))
        slot->differs = 1;
    slot->received += size;
    return size;
}

/* What is measured, as `_keep_going` of work.py does it: the clock starts when every slot has had a
 * response, and stops before the first of them ends. */
struct measurement {
    double duration;
    int in_flight, answered;  /* slots, and how many of them had a response */
    int going;                /* whether the clock does */
    int done;                 /* whether it has stopped */
    double begun, cpu_begun;  /* when it started */
    long requests;            /* that ended while it went */
    double seconds, cpu;      /* that it shows */
};

static void count(struct measurement *found, struct slot *slot) {
    if (found->going) {
        double seconds = now(CLOCK_MONOTONIC) - found->begun;
        found->requests++;
        if (found->requests >= found->in_flight && seconds >= found->duration) {
            found->seconds = seconds;
            found->cpu = now(CLOCK_PROCESS_CPUTIME_ID) - found->cpu_begun;
            found->going = 0;
            found->done = 1;
        }
    } else if (!found->done && !slot->answered) {
        slot->answered = 1;
        if (++found->answered == found->in_flight) {
            found->going = 1;
            found->begun = now(CLOCK_MONOTONIC);
            found->cpu_begun = now(CLOCK_PROCESS_CPUTIME_ID);
        }
    }
}

/* Check what has ended, and begin it anew until the clock has stopped. How many were not. */
static int finish(struct measurement *found) {
    CURLMsg *message;
    int left, ended = 0;
    while ((message = curl_multi_info_read(multi, &left))) {
        CURL *easy = message->easy_handle;
        struct slot *slot;
        long status = 0;
        if (message->data.result != CURLE_OK)
            fail("transfer", curl_easy_strerror(message->data.result));
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&slot);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        if (status != 200 || slot->received != body_size || slot->differs)
            fail("response", "another status or body than expected");
        slot->received = 0;
        curl_multi_remove_handle(multi, easy);
        count(found, slot);
        if (found->done)
            ended++;
        else
            curl_multi_add_handle(multi, easy);
    }
    return ended;
}

/* Keep every slot busy until they all have had a response and `seconds` more are over. */
static struct measurement run(struct slot *slots, int in_flight, double seconds) {
    struct measurement found = {.duration = seconds, .in_flight = in_flight};
    struct epoll_event events[EVENTS];
    int running = in_flight, unused;
    for (int i = 0; i < in_flight; i++) {
        slots[i].answered = 0;
        curl_multi_add_handle(multi, slots[i].easy);
    }
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
        running -= finish(&found);
    }
    return found;
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
    body = argv[6];
    body_size = strlen(body);
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

    run(slots, in_flight, atof(argv[4])); /* the warm-up */
    struct measurement found = run(slots, in_flight, atof(argv[3]));
    printf("{\"requests\": %ld, \"seconds\": %.9f, \"cpu_seconds\": %.9f}\n", found.requests,
           found.seconds, found.cpu);

    for (int i = 0; i < in_flight; i++)
        curl_easy_cleanup(slots[i].easy);
    curl_multi_cleanup(multi);
    return 0;
}
