/*
 * A ping-pong of 200 bytes over a Unix socket between two processes that block in read(2) and write(2):
 * what the system itself takes for a call and its answer.
 *
 * pingpong serve PATH   echoes what its one client sends, until that leaves
 * pingpong call PATH    is a client process of the benchmarks, as bench/load has it: a line of JSON on
 *                       standard input for each round, one for its outcome on standard output
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { payload = 200, kept = 1 << 20 };

static void fail(const char *what)
{
	fprintf(stderr, "error: %s: %s\n", what, errno ? strerror(errno) : "unexpected end");
	exit(1);
}

static int unix_socket(const char *path, struct sockaddr_un *at)
{
	memset(at, 0, sizeof *at);
	at->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof at->sun_path) {
		errno = ENAMETOOLONG;
		fail(path);
	}
	strcpy(at->sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0)
		fail("socket");
	return fd;
}

/* read_all gives 0 at the end of the connection. */
static int read_all(int fd, unsigned char *p)
{
	for (size_t got = 0; got < payload;) {
		ssize_t n = read(fd, p + got, payload - got);
		if (n < 0)
			fail("read");
		if (n == 0)
			return 0;
		got += (size_t)n;
	}
	return 1;
}

static void write_all(int fd, const unsigned char *p)
{
	for (size_t put = 0; put < payload;) {
		ssize_t n = write(fd, p + put, payload - put);
		if (n < 0)
			fail("write");
		put += (size_t)n;
	}
}

static void serve(const char *path)
{
	struct sockaddr_un at;
	int l = unix_socket(path, &at);
	if (bind(l, (struct sockaddr *)&at, sizeof at) != 0 || listen(l, 1) != 0)
		fail(path);
	printf("ready %s\n", path);
	fflush(stdout);
	/* The end of standard input means that no client will come. */
	struct pollfd wait[2] = {{.fd = l, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
	if (poll(wait, 2, -1) < 0)
		fail("poll");
	if (!wait[0].revents)
		return;
	int fd = accept(l, NULL, NULL);
	if (fd < 0)
		fail("accept");
	unsigned char buf[payload];
	while (read_all(fd, buf))
		write_all(fd, buf);
}

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static int64_t took[kept]; /* ns, of the last calls */

static void round_of(int fd, int64_t length)
{
	unsigned char sent[payload], got[payload];
	for (int i = 0; i < payload; i++)
		sent[i] = (unsigned char)(i * 7 + 1);
	size_t calls = 0;
	int64_t begin = now(), last = begin;
	for (; last < begin + length; calls++) {
		write_all(fd, sent);
		if (!read_all(fd, got))
			fail("the server");
		if (memcmp(sent, got, payload) != 0)
			fail("other bytes came back");
		int64_t t = now();
		took[calls % kept] = t - last;
		last = t;
	}
	size_t n = calls < kept ? calls : kept;
	if (n == 0)
		fail("a round without calls");
	qsort(took, n, sizeof *took, ascending);
	printf("{\"calls\":%zu,\"took\":%lld,\"p50\":%lld,\"p99\":%lld,\"max\":%lld}\n", calls, (long long)(last - begin),
	       (long long)took[n / 2], (long long)took[n * 99 / 100], (long long)took[n - 1]);
	fflush(stdout);
}

static void call(const char *path)
{
	struct sockaddr_un at;
	int fd = unix_socket(path, &at);
	if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0)
		fail(path);
	puts("ready ");
	fflush(stdout);
	char line[256];
	while (fgets(line, sizeof line, stdin)) {
		int callers;
		long long length;
		if (sscanf(line, "{\"callers\":%d,\"for\":%lld}", &callers, &length) != 2 || callers != 1) {
			errno = EINVAL;
			fail("the round");
		}
		round_of(fd, length);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "serve") == 0) {
		serve(argv[2]);
	} else if (argc == 3 && strcmp(argv[1], "call") == 0) {
		call(argv[2]);
	} else {
		fputs("usage: pingpong serve|call PATH\n", stderr);
		return 1;
	}
	return 0;
}
