#define _GNU_SOURCE
#include "turns.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker.h"

/* A measured process, seen from the process that gives the turns. */
typedef struct {
    pid_t pid;
    int rounds;       /* round numbers are written to it */
    FILE *answers;    /* its stdout */
    size_t needs;     /* bursts that it still needs */
    size_t planned;   /* bursts that it needed when turns began */
    size_t offered;   /* rounds so far of the worker that needed the next more bursts */
    int is_due;       /* it takes part in this round */
    char *result;     /* the JSON of its answer or its error, at its end */
    int code;
} Worker;

/* Run a worker in this process, a child: it must not outlive its parent, nor hold the pipes of other workers. */
static void become(const Arguments *arguments, Worker *workers, size_t i, pid_t parent, int rounds, int answers) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* the parent was killed before the call */
        _exit(FAILED);
    for (size_t k = 0; k < i; k++) {
        close(workers[k].rounds);
        close(fileno(workers[k].answers));
    }
    if (dup2(answers, STDOUT_FILENO) < 0)
        _exit(FAILED);
    close(answers);
    serve_turns(arguments, &arguments->arms[i], rounds);
    exit(0);
}

static void fork_worker(const Arguments *arguments, Worker *workers, size_t i) {
    int rounds[2], answers[2];
    pid_t parent = getpid();
    fflush(stdout);
    if (pipe(rounds) || pipe(answers))
        fail(FAILED, "no pipe for process %zu", i + 1);
    pid_t pid = fork();
    if (pid < 0)
        fail(FAILED, "process %zu could not be started", i + 1);
    if (!pid) {
        close(rounds[1]);
        close(answers[0]);
        become(arguments, workers, i, parent, rounds[0], answers[1]);
    }
    close(rounds[0]);
    close(answers[1]);
    workers[i] = (Worker){.pid = pid, .rounds = rounds[1], .answers = fdopen(answers[0], "r")};
}

/* Wait for the end of a worker, and keep its answer; without one, keep what ended it. */
static void end(Worker *worker, char *answer) {
    int status = 0;
    char error[128] = "{\"error\": \"the process ended without an answer\"}";
    waitpid(worker->pid, &status, 0);
    if (WIFSIGNALED(status))
        snprintf(error, sizeof error, "{\"error\": \"the process was killed by signal %d%s\"}", WTERMSIG(status),
                 WTERMSIG(status) == SIGKILL ? ", as the system does when memory is short" : "");
    if (answer)
        answer[strcspn(answer, "\n")] = 0;
    worker->code = answer && WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
    worker->result = strdup(answer ? answer : error);
    worker->needs = 0;
    close(worker->rounds);
    fclose(worker->answers);
}

/* Wait until a worker reports the bursts that it needs, or ends; skip what an engine prints. */
static void listen(Worker *worker) {
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    do
        length = getline(&line, &room, worker->answers);
    while (length > 0 && !isdigit((unsigned char)*line) && *line != '{');
    if (length > 0 && *line != '{')
        worker->needs = strtoul(line, NULL, 10);
    else
        end(worker, length > 0 ? line : NULL);
    free(line);
}

/* Give a worker a round, or LAST_ROUND, and wait for its answer. Between rounds it is stopped: the threads of an engine keep
 * a CPU busy for some time after a run. */
static void give(Worker *worker, int32_t round) {
    kill(worker->pid, SIGCONT);
    if (write(worker->rounds, &round, sizeof round) == (ssize_t)sizeof round)
        listen(worker);
    else
        end(worker, NULL);
    if (!worker->result)
        kill(worker->pid, SIGSTOP);
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static void swap(size_t *a, size_t *b) {
    size_t kept = *a;
    *a = *b;
    *b = kept;
}

/* Shuffle the order for an even round, and reverse it for an odd one. */
static void change_order(size_t *order, size_t n, int32_t round, uint64_t *random) {
    if (round % 2)
        for (size_t i = 0; i < n / 2; i++)
            swap(&order[i], &order[n - 1 - i]);
    else
        for (size_t i = n; i > 1; i--)
            swap(&order[i - 1], &order[next_random(random) % i]);
}

/* Sort workers by the bursts that they need, the most first. */
static void sort_by_need(Worker *workers, size_t *sorted, size_t n) {
    for (size_t i = 0; i < n; i++) {
        workers[i].planned = workers[i].needs;
        sorted[i] = i;
        for (size_t k = i; k && workers[sorted[k]].planned > workers[sorted[k - 1]].planned; k--)
            swap(&sorted[k], &sorted[k - 1]);
    }
}

/* Choose who takes part in the next round: each worker in an even share of the rounds of the worker before it in `sorted`, as
 * in targets/harness/turns.py. So any two workers share as many rounds as the one with fewer bursts has. */
static void choose(Worker *workers, const size_t *sorted, size_t n) {
    int is_due = 1;
    for (size_t i = 0; i < n; i++) {
        Worker *worker = &workers[sorted[i]];
        size_t most = workers[sorted[i ? i - 1 : 0]].planned;
        is_due = is_due && worker->planned && worker->offered++ * worker->planned % most < worker->planned;
        worker->is_due = is_due;
    }
}

static int anyone_needs_more(const Worker *workers, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (workers[i].needs)
            return 1;
    return 0;
}

/* Give turns until every worker has enough, and print each turn as [round, worker]. */
static void give_turns(Worker *workers, size_t n, uint64_t seed) {
    size_t order[MAX_ARMS], sorted[MAX_ARMS];
    const char *comma = "";
    sort_by_need(workers, sorted, n);
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    printf("\n{\"turns\": [");
    for (int32_t round = 0; anyone_needs_more(workers, n); round++) {
        change_order(order, n, round, &seed);
        choose(workers, sorted, n);
        for (size_t i = 0; i < n; i++) {
            Worker *worker = &workers[order[i]];
            if (!worker->needs || !worker->is_due)
                continue;
            give(worker, round);
            printf("%s[%d, %zu]", comma, (int)round, order[i]);
            comma = ", ";
        }
    }
    printf("], ");
}

int measure_in_turns(const Arguments *arguments) {
    Worker workers[MAX_ARMS];
    size_t n = arguments->n_arms;
    int code = 0;
    if (!n)
        fail(USAGE, "--model is missing");
    signal(SIGPIPE, SIG_IGN); /* writing to a worker that was killed then fails */
    for (size_t i = 0; i < n; i++) {
        fork_worker(arguments, workers, i);
        listen(&workers[i]);
        if (!workers[i].result)
            kill(workers[i].pid, SIGSTOP);
    }
    give_turns(workers, n, arguments->seed);
    for (size_t i = 0; i < n; i++) {
        if (!workers[i].result)
            give(&workers[i], LAST_ROUND);
        printf("%s%s", i ? ", " : "\"arms\": [", workers[i].result);
        code = workers[i].code > code ? workers[i].code : code;
    }
    printf("]}\n");
    return code;
}
