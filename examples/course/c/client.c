/* client n_A n_B IP_A IP_B: n_A files of server A, the next n_B of server B, and so on; both at once. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static char names[4096][64];
static int count, n_a, n_b;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Reads the head of an answer; returns the length of its body. */
static long head(FILE *server, const char *name) {
    char line[1024];
    long bytes = -1;
    int status = 0;
    if (!fgets(line, sizeof line, server) || sscanf(line, "HTTP/%*s %d", &status) != 1 || status != 200) {
        fprintf(stderr, "no file %s: status %d\n", name, status);
        exit(1);
    }
    while (fgets(line, sizeof line, server) && strcmp(line, "\r\n"))
        if (!strncasecmp(line, "content-length:", 15)) bytes = atol(line + 15);
    return bytes;
}

static void store(FILE *server, const char *name) {
    char part[80], piece[65536];
    snprintf(part, sizeof part, "%s.part", name);
    FILE *file = fopen(part, "wb");
    if (!file) fail(part);
    for (long left = head(server, name); left > 0;) {
        size_t got = fread(piece, 1, left < (long)sizeof piece ? (size_t)left : sizeof piece, server);
        if (!got) fail("the connection ended within a file");
        if (fwrite(piece, 1, got, file) < got) fail(part);
        left -= (long)got;
    }
    if (fclose(file) || rename(part, name)) fail(name);
}

struct share {
    const char *ip;
    int server;
};

/* Fetches a server's files one after another, on one connection. */
static void *fetch(void *argument) {
    struct share *share = argument;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(4455)};
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, share->ip, &to.sin_addr) != 1) fail(share->ip);
    if (tcp < 0 || connect(tcp, (struct sockaddr *)&to, sizeof to)) fail(share->ip);
    FILE *server = fdopen(tcp, "r");
    for (int at = 0; at < count; at++) {
        char request[256];
        if ((at % (n_a + n_b) >= n_a) != share->server) continue;
        int length = snprintf(request, sizeof request, "GET /%s HTTP/1.1\r\nHost: %s:4455\r\n\r\n", names[at], share->ip);
        if (write(tcp, request, (size_t)length) != length) fail("write");
        store(server, names[at]);
    }
    fclose(server);
    return NULL;
}

int main(int words, char **word) {
    if (words != 5) {
        fprintf(stderr, "usage: client n_A n_B IP_A IP_B\n");
        return 2;
    }
    n_a = atoi(word[1]);
    n_b = atoi(word[2]);
    FILE *list = fopen(getenv("FILES"), "r");
    if (!list) fail("FILES");
    while (count < 4096 && fscanf(list, "%63s", names[count]) == 1) count++;
    struct share shares[2] = {{word[3], 0}, {word[4], 1}};
    pthread_t other;
    if (pthread_create(&other, NULL, fetch, &shares[1])) fail("pthread_create");
    fetch(&shares[0]);
    pthread_join(other, NULL);
    return 0;
}
