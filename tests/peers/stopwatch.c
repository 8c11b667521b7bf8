/* stopwatch [-c ROOT] [-o FILE] [-w NAME] [-t] PROGRAM ARGUMENT...
 *
 * Runs a program and prints one line about it:
 *   stopwatch: exit=N us=N there=N rss=N processes=N execs=N
 * us: from the exec until its end, in microseconds. there: from the exec until /dev/mapper/NAME
 * came (0: it did not). rss: largest resident set of it and of those that it waited for, in KiB.
 * processes, execs: with -t alone, which makes everything slower: how many there were, threads
 * not counted. -c: the root that it runs in. -o: where its standard output goes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void die(const char *what)
{
    perror(what);
    exit(125);
}

static void child(char **argv, const char *root, const char *output, int traced, volatile long *start)
{
    static char *environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/", "TMPDIR=/run", NULL};
    if (output) {
        int fd = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || dup2(fd, 1) < 0)
            die(output);
    }
    if (root && (chroot(root) || chdir("/")))
        die(root);
    if (traced) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            die("ptrace");
        raise(SIGSTOP);
    }
    *start = now();
    execve(argv[0], argv, environment);
    die(argv[0]);
}

/* Follows all processes to the end of the first one. */
static int follow(pid_t pid, struct rusage *usage, int *processes, int *execs)
{
    long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
                   PTRACE_O_EXITKILL;
    int status;
    *processes = 1;
    *execs = 0;
    if (waitpid(pid, &status, 0) != pid || ptrace(PTRACE_SETOPTIONS, pid, 0, options))
        die("ptrace");
    ptrace(PTRACE_CONT, pid, 0, 0);
    for (;;) {
        pid_t who = wait4(-1, &status, __WALL, usage);
        if (who < 0)
            die("wait");
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (who == pid)
                return status;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        *processes += event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK;
        *execs += event == PTRACE_EVENT_EXEC;
        if (event || signal == SIGSTOP || signal == SIGTRAP)
            signal = 0;
        ptrace(PTRACE_CONT, who, 0, signal);
    }
}

/* Waits for the program, and notes when NAME came. */
static int watch(pid_t pid, int events, const char *name, struct rusage *usage, long *there)
{
    int process = syscall(SYS_pidfd_open, pid, 0), status;
    if (process < 0)
        die("pidfd_open");
    struct pollfd fds[] = {{process, POLLIN, 0}, {events, POLLIN, 0}};
    while (!fds[0].revents) {
        if (poll(fds, events < 0 ? 1 : 2, -1) < 0)
            die("poll");
        if (fds[1].revents) {
            char buffer[sizeof(struct inotify_event) + NAME_MAX + 1]
                __attribute__((aligned(__alignof__(struct inotify_event))));
            long at = now();
            ssize_t length = read(events, buffer, sizeof buffer);
            for (char *p = buffer; p < buffer + length;) {
                struct inotify_event *event = (struct inotify_event *)p;
                if (!*there && event->len && !strcmp(event->name, name))
                    *there = at;
                p += sizeof *event + event->len;
            }
        }
    }
    if (wait4(pid, &status, 0, usage) != pid)
        die("wait");
    return status;
}

int main(int argc, char **argv)
{
    const char *root = NULL, *output = NULL, *name = NULL;
    int traced = 0, option, events = -1, processes = 0, execs = 0, status;
    long there = 0;
    struct rusage usage = {0};
    while ((option = getopt(argc, argv, "+c:o:w:t")) >= 0) {
        switch (option) {
        case 'c': root = optarg; break;
        case 'o': output = optarg; break;
        case 'w': name = optarg; break;
        case 't': traced = 1; break;
        default: return 125;
        }
    }
    if (optind == argc)
        return 125;
    volatile long *start = mmap(NULL, sizeof *start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        die("mmap");
    if (name && ((events = inotify_init1(IN_CLOEXEC)) < 0 ||
                 inotify_add_watch(events, "/dev/mapper", IN_CREATE | IN_MOVED_TO) < 0))
        die("/dev/mapper");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (!pid)
        child(argv + optind, root, output, traced, start);
    status = traced ? follow(pid, &usage, &processes, &execs) : watch(pid, events, name, &usage, &there);
    long end = now();
    printf("stopwatch: exit=%d us=%ld there=%ld rss=%ld processes=%d execs=%d\n",
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), end - *start,
           there ? there - *start : 0, usage.ru_maxrss, processes, execs);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}
