/* What the parts of the supervisor share: one run, from lock to exit record. */
#ifndef IPC_SUPERVISE_H
#define IPC_SUPERVISE_H

#include "ipc.h"

#include <sys/resource.h>

#define IPC_RETRY_MS 250u /* until the next attempt after the disk was full */
#define IPC_NEVER UINT64_MAX

struct ipc_client {
	int fd;
	uint32_t version; /* the lower of its version and ours */
	size_t len;
	uint8_t in[4 + IPC_REQUEST_BYTES_MAX];
	int channel[IPC_CHANNEL_FDS]; /* received, and kept until an OPEN passes them on */
	size_t channel_count;
};

/* The state of the run. STOPPING: somebody asked for the end. LEFT: only leftovers of the worker still run. */
enum ipc_life { IPC_LIFE_UP, IPC_LIFE_STOPPING, IPC_LIFE_LEFT, IPC_LIFE_LEFT_STOPPING, IPC_LIFE_STATES };

/* The run of this process. */
extern struct ipc_run {
	struct ipc_spec spec;
	struct ipc_log log;
	struct ipc_stream streams[2];
	struct ipc_stdio stdio; /* in place of the streams, if it is the caller's */
	struct ipc_client clients[IPC_CLIENTS_MAX];
	int dirfd, lockfd, logdirfd, listener, signals, notify, control;
	int words; /* pipe with the worker's last words for the caller */
	int owner; /* pipe or connection that ends with the program that owns the worker */
	struct ipc_meeting meeting;
	struct ipc_commands commands;
	struct ipc_meeting asking; /* with the line helper, in place of a runtime */
	struct ipc_channels channels;
	int told, remote; /* remote: the connection to a snapshot that forked the worker */
	int lifeline;     /* the first process of the worker's PID namespace waits for this to close */
	uint8_t *spec_bytes;
	size_t spec_size;
	struct ipc_denials denials;
	pid_t pid;
	uint64_t start_time, started_ns, started_boot_ns, ended_ns;
	enum ipc_life life;
	bool is_in_group, is_worker_killed, has_lost_owner, was_all_written, is_ready, is_stop_requested, is_wall_over,
		was_full;
	int status, asked_signal;
	struct rusage usage;
	struct ipc_child_error child_error;
	uint64_t kill_at, wall_at, retry_at, told_at, alone_at;
	uint64_t claim_at; /* until then its owner must have come */
	size_t killed;
	const char *kill_method;
	uint64_t told_rotations, told_dropped;
} shim;

static inline bool ipc_run_has_exited(void)
{
	return shim.life >= IPC_LIFE_LEFT;
}
/* Something in the worker, or for it, takes channels, or waits for one. */
static inline bool ipc_run_is_attached(void)
{
	return shim.meeting.runtime >= 0 || shim.asking.runtime >= 0 || shim.commands.count > 0;
}
static inline bool ipc_run_is_stopping(void)
{
	return shim.life == IPC_LIFE_STOPPING || shim.life == IPC_LIFE_LEFT_STOPPING;
}

/* supervise.c: asks the worker to end, with this signal; a second call can only shorten the grace period. */
void ipc_run_stop(uint32_t grace_ms, int signal);
/* supervise.c: this connection is the owner's. 0 or -errno; the descriptor stays the caller's unless it is taken. */
int ipc_run_check_claim(void);
void ipc_run_take_owner(int fd);

/* clients.c: connections of daemons and of programs that open channels */
void ipc_run_broadcast(uint8_t type, const uint8_t *payload, size_t size);
void ipc_run_tell_exited(void);
void ipc_run_tell_log(void);
void ipc_run_tell_attached(void);
void ipc_run_read_client(struct ipc_client *client);
void ipc_run_accept_client(void);
void ipc_run_drop_client(struct ipc_client *client);

/* output.c: from the worker's pipes to the log */
bool ipc_run_pump(struct ipc_stream *stream);
bool ipc_run_is_waiting_for_room(void);
void ipc_run_retry_log(void);
void ipc_run_drain_output(void);

/* start.c: 0 or -errno; listen_on returns a non-blocking descriptor. */
int ipc_run_listen_on(const char *name, int type);
void ipc_run_add_notify_env(void);
int ipc_run_start_worker(void);

/* outcome.c: the records on disk, by which a daemon finds the run and its end */
void ipc_run_write_run_record(void);
void ipc_run_write_exit_record(void);

#endif
