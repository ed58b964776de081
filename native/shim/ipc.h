/* What the parts of the shim promise each other. The contract with the daemon is docs/internals/shim.md. */
#ifndef IPC_H
#define IPC_H

#include "../contract.h"
#include "proc.h"

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <termios.h>

#define IPC_MOUNT_KINDS (IPC_MOUNT_PROC + 1)
/* How long a worker may outlive its connect helper: they die together, but we learn of it separately. */
#define IPC_ALONE_MS 1000u
/* Output that waits longer than this for its newline becomes a partial record: a prompt is visible, and a killed shim
 * loses no more than this. */
#define IPC_SHOW_MS 200u
#define IPC_RECORD_HEAD_BYTES 40u
#define IPC_READ_BYTES 131072u
#define IPC_OUT_BYTES 262144u

struct ipc_log_limits {
	uint64_t max_file_bytes;
	uint32_t max_files;
	uint64_t max_total_bytes;
	uint64_t max_age_ms;
	bool is_dropping;
};

struct ipc_rlimit {
	uint32_t resource;
	uint64_t soft, hard;
};
struct ipc_rawlog {
	uint8_t streams;
	uint64_t max_bytes;
	uint32_t max_files;
	const char *path;
	int fd;
	uint64_t bytes;
};

struct ipc_path_rule {
	uint64_t access;
	bool is_optional;
	const char *path;
};
struct ipc_port_rule {
	uint64_t access, port;
};
/* A value that is filled into a filter step: a word of the token that only this process knows, or its own pid. */
struct ipc_patch {
	uint16_t step;
	uint8_t what;
};
#define IPC_TOKEN_WORDS 4
#define IPC_PATCH_SELF 4
struct ipc_filter {
	const uint8_t *bytes;
	size_t steps;
	bool is_notifying;
	struct ipc_patch patches[IPC_PATCHES_MAX];
	size_t patch_count;
};
struct ipc_mount {
	enum ipc_mount_kind kind;
	bool is_writable, is_device, may_exec, is_mapped;
	uint64_t bytes;
	uint32_t files;
	const char *path, *target;
};
struct ipc_host {
	uint16_t port;
	const char *name;
};

/* A parsed spec. Its strings live until exit in the arena that ipc_spec_parse allocated. */
struct ipc_spec {
	uint64_t run;
	char **argv;
	char **envp;
	const char *cwd;
	bool has_ids;
	uint32_t uid, gid;
	uint32_t grace_ms, stop_signal;
	bool has_umask;
	uint32_t umask;
	uint8_t kill_mode; /* IPC_KILL_*, or IPC_KILL_UNSAID */
	struct ipc_log_limits log;
	struct ipc_rlimit rlimits[IPC_RLIMITS_MAX];
	size_t rlimit_count;
	const char *cgroup;
	bool is_owned;
	uint32_t claim_ms;      /* 0: the owner holds standard input, or IPC_OWNER_FD */
	uint32_t input_bytes;   /* of our standard input, which are the worker's */
	bool has_callers_stdio; /* the worker gets ours, as in the foreground */
	bool is_notifying;
	uint64_t wall_ms;
	struct ipc_rawlog rawlogs[IPC_RAWLOGS_MAX];
	size_t rawlog_count;
	bool is_confined, has_no_capabilities;
	uint64_t landlock_fs, landlock_net, landlock_scoped;
	struct ipc_path_rule paths[IPC_PATHS_MAX];
	size_t path_count;
	struct ipc_port_rule ports[IPC_PORTS_MAX];
	size_t port_count;
	struct ipc_filter filters[IPC_FILTERS_MAX];
	size_t filter_count;
	uint32_t namespaces;
	struct ipc_mount mounts[IPC_MOUNTS_MAX];
	size_t mount_count;
	bool has_hosts; /* the helper connects for the worker, to these hosts only */
	bool has_unix;  /* besides them the worker may connect Unix sockets itself */
	struct ipc_host hosts[IPC_HOSTS_MAX];
	size_t host_count;
	uint32_t denied_classes;
	const char *worker, *audit; /* its name, and the audit log if it has a helper */
	bool is_plane_passed;
	bool asks_by_lines;
	bool has_commands;  /* programs that the worker starts may ask the host */
	const char *zygote; /* the socket of a snapshot that forks in our place */
};

/* spec.c: bounded parser; 0 or -EINVAL/-ENOMEM. `extra_env` reserves room for that many more variables. */
int ipc_spec_parse(const uint8_t *bytes, size_t size, size_t extra_env, struct ipc_spec *spec);
int ipc_spec_read(int dirfd, const char *name, uint8_t **bytes, size_t *size);
void ipc_spec_add_env(struct ipc_spec *spec, char *assignment);
uint32_t ipc_get_u32(const uint8_t *at);
uint64_t ipc_get_u64(const uint8_t *at);
void ipc_put_u32(uint8_t *at, uint32_t value);
void ipc_put_u64(uint8_t *at, uint64_t value);

/* log.c: CRI records into numbered files. */
struct ipc_stream {
	int fd; /* read end, -1 once at its end */
	bool is_stderr;
	size_t in_len, in_pos;
	size_t held_len;
	uint64_t held_ms; /* when the oldest held byte came */
	bool is_open;     /* the last record was a partial one */
	bool is_cut;      /* and the rest of its line was dropped */
	char head[IPC_RECORD_HEAD_BYTES + 1];
	uint8_t in[IPC_READ_BYTES];
	uint8_t held[IPC_LINE_BYTES_MAX];
};

struct ipc_log {
	int dirfd;
	int fd;
	uint64_t number;
	uint64_t file_bytes;
	uint64_t opened_ms;
	struct ipc_log_limits limits;
	size_t out_len;
	bool is_stuck; /* the last write found no room */
	uint64_t dropped_lines, dropped_bytes, lines, bytes;
	uint64_t rotations;
	uint8_t out[IPC_OUT_BYTES];
};

int ipc_log_open(struct ipc_log *log, int dirfd, const struct ipc_log_limits *limits);
/* Takes all waiting input of the stream. True if all of it was written; false: stuck, call again later. */
bool ipc_log_feed(struct ipc_log *log, struct ipc_stream *stream);
/* Turns held output without a newline into a record. */
bool ipc_log_finish(struct ipc_log *log, struct ipc_stream *stream);
/* When held output must be written; UINT64_MAX if there is none, or no room. */
uint64_t ipc_log_due(const struct ipc_log *log, const struct ipc_stream *stream);
void ipc_log_show(struct ipc_log *log, struct ipc_stream *stream);
bool ipc_log_flush(struct ipc_log *log);
/* Before the log so far is deleted: drops the rest of a record whose beginning is deleted with it. */
void ipc_log_cut(struct ipc_log *log);
/* Counts everything that waits as dropped, so that the end can go on without room. */
void ipc_log_give_up(struct ipc_log *log, struct ipc_stream *streams, size_t count);
int ipc_log_rotate(struct ipc_log *log);
void ipc_log_delete_old(struct ipc_log *log);
void ipc_log_stamp(struct ipc_stream *stream);

/* meet.c: hands the descriptors of a channel from a client to the runtime in the worker. */
/* `passed`: our end of a connection that was handed to a worker which can reach no socket by path, until it says hello.
 */
struct ipc_meeting {
	int listener, runtime, passed;
	int bell; /* of the runtime, or -1 */
	pid_t runtime_pid;
	uint64_t activity, quiet_since; /* of a worker without a handler, when last seen (IPC_MEET_QUIET_MS) */
};
#define IPC_MEET_QUIET_MS 1000
bool ipc_meet_greet(struct ipc_meeting *meeting, pid_t worker);
bool ipc_meet_accept(struct ipc_meeting *meeting, pid_t shim, pid_t worker);
/* A connection of a process of the worker's tree, and its pid; or -1. */
int ipc_meet_accept_from(int listener, pid_t shim, pid_t worker, pid_t *pid);
/* False at its end. */
bool ipc_meet_hear(struct ipc_meeting *meeting);
bool ipc_meet_is_bell(int fd);
void ipc_meet_drop(struct ipc_meeting *meeting);
int ipc_meet_forward(struct ipc_meeting *meeting, const int *fds, size_t fd_count, const uint8_t *payload, size_t size);
/* The same to whoever is at the other end of this connection. */
int ipc_meet_send(int to, const int *fds, size_t fd_count, const uint8_t *payload, size_t size);
ssize_t ipc_meet_receive(int fd, void *bytes, size_t size, bool is_blocking, int *fds, size_t *fd_count);
int ipc_meet_wake(struct ipc_meeting *meeting, pid_t worker);

/* commands.c: programs that the worker starts wait here for their channels to the host. */
struct ipc_commands {
	int listener; /* -1: there are none in this run */
	int waiting[IPC_HOST_COMMANDS_MAX];
	size_t count;
	bool is_untold; /* the daemon does not know yet that some wait */
	uint64_t told_at;
};
/* They may come as fast as they like: the daemon is told of them only so often. */
#define IPC_COMMANDS_PAUSE_MS 5u
/* When it is; UINT64_MAX: there is nothing new. */
uint64_t ipc_commands_due(const struct ipc_commands *commands);
void ipc_commands_accept(struct ipc_commands *commands, pid_t shim, pid_t worker);
/* It says something, or ends: neither is of use to it. */
void ipc_commands_drop(struct ipc_commands *commands, size_t index);
/* To the one that waits longest, which then needs its connection no more. 0, or -errno; ENOTCONN: none waits. */
int ipc_commands_forward(
	struct ipc_commands *commands, const int *fds, size_t fd_count, const uint8_t *payload, size_t size);

/* channels.c */
#define IPC_CALLS_BYTES (8 + 8 * IPC_STATISTICS_WORDS)
struct ipc_calls {
	uint64_t words[IPC_STATISTICS_WORDS];
};
#define IPC_LEAVE_MS 20u /* how long a worker has to notice the end of its client before it is woken */
#define IPC_LEAVE_MS_MAX 1000u
struct ipc_channel {
	int segment, life; /* no life: the client is gone, and the worker has not confirmed that it ended that client's
			      work */
	bool is_confirmed; /* the worker confirms */
	bool is_host;      /* the worker asks the host on it */
	bool is_command;   /* or a program that it has started does */
	uint64_t look_at, pause_ms;
};
struct ipc_channels {
	struct ipc_channel one[IPC_CHANNELS_MAX + IPC_HOST_COMMANDS_MAX];
	size_t count, commands;
	struct ipc_calls ended; /* sums over closed channels */
};
bool ipc_channels_full(const struct ipc_channels *channels);
uint8_t ipc_channel_kind(const uint8_t *payload, size_t size);
bool ipc_channels_has_host(const struct ipc_channels *channels);
/* The channel that it keeps. */
struct ipc_channel *ipc_channels_keep(
	struct ipc_channels *channels, int segment, int life, const uint8_t *payload, size_t size);
void ipc_channels_keep_command(
	struct ipc_channels *channels, int segment, int life, const uint8_t *payload, size_t size);
bool ipc_channels_leave(struct ipc_channels *channels, size_t index);
uint64_t ipc_channels_due(const struct ipc_channels *channels);
bool ipc_channels_attend(struct ipc_channels *channels, bool is_attached);
size_t ipc_channels_tell(const struct ipc_channels *channels, uint32_t version, uint8_t payload[IPC_CALLS_BYTES]);

/* raw.c */
void ipc_rawlog_write(struct ipc_rawlog *raw, const uint8_t *data, size_t size);

/* child.c: between fork and exec, an ordered list of steps. */
struct ipc_child_error {
	int32_t error;
	int32_t step;
};
/* What the child reports, by kind; other messages are ignored. */
enum ipc_report_kind {
	IPC_REPORT_ERROR = 1, /* errno, step */
	IPC_REPORT_PIDS,      /* the first process of the namespace, and the worker */
	IPC_REPORT_LISTENER,  /* its descriptor is attached */
};
struct ipc_report {
	int32_t kind, values[2];
};
/* The variable that names its control descriptor in a run: the worker leaves its last words there. */
#define IPC_WORDS_VARIABLE "IPCCTL_WORDS_FD"
/* `life`: closes at the other end when the worker or the shim is gone. */
struct ipc_child_fds {
	int in, out, err, control, gate, report, plane, life;
};
#define IPC_CHILD_FDS (sizeof(struct ipc_child_fds) / sizeof(int))
extern const char *const ipc_step_names[];
/* Opens both ends of the report pipe. Then, in the parent until the exec: the child's error, whose step has a name, and
 * the descriptor that was attached, or -1. */
int ipc_report_open(int fds[2]);
int ipc_report_tell(int fd, enum ipc_report_kind kind, int32_t first, int32_t second);
void ipc_report_read(int fd, struct ipc_child_error *error, int *listener);
/* The process that becomes the worker: the forked one or, if that created a PID namespace, its child. */
pid_t ipc_report_pid(int fd, const struct ipc_spec *spec, pid_t forked);
int ipc_child_hand_over(int to, int fd, const void *message, size_t size);
/* The same without the exec, for a process forked elsewhere. Returns 0, or an errno that was sent to `report`. */
int ipc_child_become(const struct ipc_spec *spec, const struct ipc_child_fds *fds, pid_t shim);
_Noreturn void ipc_child_exec(
	const struct ipc_spec *spec, const struct ipc_child_fds *fds, pid_t parent, bool is_foreground);

/* confine.c: 0, or -errno with the step that failed. `token` goes along with the exec; without one no exec follows, and
 * none is allowed. */
struct ipc_token {
	uint32_t words[IPC_TOKEN_WORDS];
};
int ipc_confine(const struct ipc_spec *spec, const struct ipc_token *token, enum ipc_step *step, int *listener);

/* isolate.c: 0 or -errno. */
/* Enters some namespaces ahead of time; ipc_isolate then enters the others. */
int ipc_isolate_enter(uint32_t namespaces);
int ipc_isolate(const struct ipc_spec *spec);
/* In a child: forks, and returns in a sibling, the second process of the PID namespace. The caller sends its pid and
 * that of the first process to `report`, and exits. Only then does it return, so the worker's reports come after that.
 */
int ipc_isolate_processes(const struct ipc_spec *spec, const struct ipc_child_fds *fds);
int ipc_probe(void);

/* idmap.c: exchanges the owner and the worker, and their groups, on this detached mount. 0 or -errno. */
int ipc_idmap_owner(int tree, uint32_t uid, uint32_t gid);
/* Whether the files at the path support that: 0, or 1 with a line that says what failed. */
int ipc_idmap_probe(const char *path);

/* zygote.c: a request on the connection: u32 size of the specification, u32 its namespaces, u8 which of the descriptors
 * are attached; then the specification. */
#define IPC_ZYGOTE_HEAD 9
/* The connection on which the end of the worker is reported, or -errno. */
struct rusage;
int ipc_zygote_fork(
	const struct ipc_spec *spec, const uint8_t *bytes, size_t size, const struct ipc_child_fds *fds, pid_t *pid);
/* False: the snapshot is gone, and everything that it forked. */
bool ipc_zygote_read(int fd, int *status, struct rusage *usage);

/* denials.c */
#define IPC_DENIALS_MAX 16
#define IPC_DENIAL_BYTES 1024 /* lines of tell() in net/audit.c are shorter */
struct ipc_denials {
	size_t count;
	char lines[IPC_DENIALS_MAX][IPC_DENIAL_BYTES];
};
bool ipc_denials_read(struct ipc_denials *denials, int fd, bool *is_news);
size_t ipc_denials_text(const struct ipc_denials *denials, char *text, size_t size);

/* helper.c: a child of the shim that does one thing beside the worker, and ends with the shim. 0 in the child, as
 * fork() does; its pid, or -1. */
pid_t ipc_helper_fork(void);
/* In it: puts these at IPC_HELPER_FIRST and up, one that is negative at none, and closes all others. Changes `fds`. */
#define IPC_HELPER_FIRST 3
void ipc_helper_hold(int *fds, size_t count);

/* answer.c: starts the connect helper, which answers what the worker's filter hands over. Returns its pid, or -errno;
 * takes the listener. *told is the end of a pipe on which the helper writes a line for each denial. */
pid_t ipc_answer_start(const struct ipc_spec *spec, int listener, int *told);

/* asking.c: starts the line helper, between the worker's pipes and ours. Replaces the worker's ends of them in `fds`;
 * takes the output, which `is_lent` where it is the caller's, and with `has_input` passes on what waits in the input.
 * Returns its pid, or -errno; *door is our end of a connection to it, over which it gets its channel to the host, and
 * tells that it needs no more. */
pid_t ipc_asking_start(struct ipc_child_fds *fds, bool has_input, bool is_lent, int *door);

/* tree.c: all processes below the shim. */
/* Descendants that do not count as its tree: the helpers, and the first process of its namespace. */
#define IPC_SPARED_MAX 3
void ipc_tree_spare(pid_t pid);
void ipc_tree_end_spared(void);
size_t ipc_tree_list(const char *cgroup, pid_t except, pid_t **pids, size_t *capacity);
/* The same below another root, which need not be us. */
size_t ipc_tree_below(pid_t root, pid_t except, pid_t **pids, size_t *capacity);
size_t ipc_tree_signal(const char *cgroup, pid_t except, int signal);
/* SIGKILL until nothing is left; the caller waits for `worker`. Returns how many processes were seen; sets `method`. */
size_t ipc_tree_kill(const char *cgroup, pid_t worker, const char **method);
bool ipc_tree_contains(pid_t root, pid_t pid);
bool ipc_tree_confined(pid_t pid);

/* stop.c: who gets the signal that asks a worker to end. */
#define IPC_KILL_UNSAID 255 /* the main process, but its group while that is a shell */
/* The worker's tree is below `root`. */
void ipc_stop_ask(pid_t root, pid_t worker, uint8_t mode, int signal);
/* The main process has ended: SIGTERM to the remaining processes that were not asked yet. Returns how many remain. */
size_t ipc_stop_ask_rest(const char *cgroup);

/* stdio.c: which of the caller's stdio a run hands to its worker. */
struct ipc_pump {
	int from; /* the end of a pipe, or -1 */
};
struct ipc_stdio {
	int child[3];             /* what the worker's 0, 1 and 2 become */
	struct ipc_pump pumps[3]; /* bytes from these pipes go to the caller's 1 and 2 */
	int own_input;            /* the worker's own description of the caller's 0, or -1 */
	int flags[3];             /* the caller's flags before; -1: closed */
	int terminal;             /* one of them, or -1; and its modes before */
	struct termios modes;
	uint64_t max_file_bytes;
	bool is_lost;
};
/* 0 or -errno. */
int ipc_stdio_lend(struct ipc_stdio *stdio, const struct ipc_spec *spec);
/* In the worker before its exec; and in the lender after that. */
void ipc_stdio_take(const struct ipc_stdio *stdio);
void ipc_stdio_lent(struct ipc_stdio *stdio);
/* Passes on what waits in `fd`; with `is_last` everything. */
void ipc_stdio_pump(struct ipc_stdio *stdio, int fd, bool is_last);
/* Somebody else who wrote for the worker has failed. */
void ipc_stdio_lose(struct ipc_stdio *stdio);
/* The worker and its tree have ended. False: not all of its output could be written. */
bool ipc_stdio_end(struct ipc_stdio *stdio);

/* caller.c: what whoever started the shim is told of a run, where the stdio is his. */
/* A pipe for the worker's last words, if its environment says that it leaves some; else -1 twice. 0 or -errno. */
int ipc_caller_open_words(const struct ipc_spec *spec, int ends[2]);
/* Keeps them beside the specification, if there are any. They are text of the worker and treated as such. */
void ipc_caller_keep_words(int folder, int words);
void ipc_caller_tell_stdio(int error_number);
/* Of a worker that was not started. */
void ipc_caller_tell_failure(const struct ipc_spec *spec, const struct ipc_child_error *error);
/* The exit status for him. `is_written`: all of the worker's output was. */
int ipc_caller_status(int status, const struct ipc_child_error *error, bool is_late, bool is_written);

/* record.c: durable small files. 0 or -errno. */
/* Reserves the room of a record that is written later, however full the disk is by then. */
int ipc_record_reserve(int dirfd, const char *name);
int ipc_record_write(int dirfd, const char *name, const char *text, size_t size, bool is_durable);
void ipc_boot_id(char out[64]);

/* clock */
uint64_t ipc_now_ms(void); /* monotonic */
uint64_t ipc_realtime_ns(void);
uint64_t ipc_boottime_ns(void);

int ipc_foreground(const char *spec_path);
int ipc_supervise(const char *dir);

#endif
