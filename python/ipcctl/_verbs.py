"""What the daemon answers, for type checkers. Written by scripts/generate.ts from src/protocol/verbs.ts."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class WorkerStatus(TypedDict):
    name: str
    state: Literal["Starting", "Running", "Stopping", "Stopped", "Crashed", "Backoff"]
    pid: int | None
    restarts: int
    auto_start: bool
    command: str
    args: list[str]
    cwd: str | None
    restart_policy: Literal["No", "Always", "OnFailure", "UnlessStopped"]
    last_exit_code: int | None
    uptime_seconds: float | None
    max_memory: float | None
    max_cpu_percent: float | None
    max_restart_attempts: int | None
    backoff_exhausted: bool
    env: dict[str, str]
    memory_bytes: float | None
    cpu_percent: float | None
    app: str
    instance: int
    group: str | None
    kind: Literal["app", "snapshot", "host", "plugin", "runtime", "session"]
    life: Literal["stored", "ephemeral"]
    stdio: Literal["caller"] | None
    owner: str | None
    policy: str
    denied: list[str]
    ready: bool | None
    health: Literal["healthy", "unhealthy", "starting"] | None
    shim_pid: int | None
    shim_version: int | None
    log_bytes: int
    log_dropped_lines: int
    log_blocked: bool
    log_dir: str
    degraded: list[str]
    last_exit_signal: str | None
    started_at: str | None
    status_text: str | None
    calls: CallStatus | None
    reason: str | None


class CallStatusLatencyUs(TypedDict):
    p50: float | None
    p90: float | None
    p99: float | None
    histogram: list[int]


class CallStatus(TypedDict):
    channels: int
    waiting: int
    total: int
    errors: int
    bytes_in: int
    bytes_out: int
    seconds: float | None
    latency_us: CallStatusLatencyUs


class LogLines(TypedDict):
    errors: list[str]
    output: list[str]
    lost: NotRequired[list[str]]


class Greeting(TypedDict):
    protocol: int
    version: str
    pid: int


class WorkerDescriptionLogFiles(TypedDict):
    path: str
    bytes: int


class WorkerDescriptionLimits(TypedDict):
    name: str
    value: float
    mechanism: str
    is_approximate: bool


class WorkerDescriptionTree(TypedDict):
    pid: int
    command: str


class WorkerDescription(WorkerStatus):
    definition: dict[str, object]
    exits: list[ExitInfo]
    log_files: list[WorkerDescriptionLogFiles]
    limits: list[WorkerDescriptionLimits]
    tree: list[WorkerDescriptionTree]


class ExitInfo(TypedDict):
    run: int
    pid: int | None
    kind: Literal["exit", "signal", "exec", "lost"]
    status: int
    signal: str | None
    step: str | None
    started_at: str | None
    ended_at: str
    stop_requested: bool
    kill_method: str
    tree_killed: int
    max_rss_bytes: int
    cpu_seconds: float
    outcome: str


class ActResult(TypedDict):
    name: str
    ok: bool
    message: str
    code: NotRequired[str]
    hint: NotRequired[str]
    output: NotRequired[list[str]]
    pid: NotRequired[int | None]


class DaemonStatus(TypedDict):
    version: str
    protocol: int
    pid: int
    uptime_seconds: float
    socket: str
    state_dir: str
    daemon_log: str
    workers: int
    running: int
    connections: int
    subscribers: int
    memory_bytes: float
    cgroup: str | None
    degraded: list[str]


class AuditAnchor(TypedDict):
    line: int
    digest: str
    time: str


class CredentialCheck(TypedDict):
    name: str
    ok: bool
    message: str


class CredentialStatus(TypedDict):
    name: str
    plugin: str | None
    kind: Literal["key", "login"]
    set_at: str | None
    used_at: str | None
    expires_at: str | None
    trouble: str | None


class PluginStatusTools(TypedDict):
    name: str
    risk_level: Literal["low", "high"]
    description: str


class PluginStatus(TypedDict):
    name: str
    version: str | None
    description: str | None
    tools: list[PluginStatusTools]
    risk: Literal["low", "high"] | None
    state: Literal["ready", "idle", "failed", "unaccepted", "off"]
    credential: Literal["set", "missing", "invalid"] | None
    folder: str | None
    digest: str | None
    accepted: str | None
    troubles: list[str]


class StoredFile(TypedDict):
    id: str
    name: str
    conversation_id: str | None
    media_type: str
    bytes: int
    written_by: str
    created_at: str
    modified_at: str
    version: str


class Project(TypedDict):
    values: dict[str, object]
    conversations: int


class Conversation(TypedDict):
    conversation_id: str
    values: dict[str, object]
    messages: int
    created_at: str


class Message(TypedDict):
    number: int
    role: Literal["user", "assistant", "system", "tool"]
    text: str
    written_by: str
    created_at: str


class QueueEntry(TypedDict):
    id: str
    event: str
    topic: str
    rule: str
    group: str
    state: Literal["queued", "running", "done", "failed", "dead"]
    attempts: int
    due_at: str
    outcome: str | None
    created_at: str
    changed_at: str


class Task(TypedDict):
    name: str
    cron: str
    timezone: str
    overlap: Literal["skip", "restart", "queue"]
    catch_up: bool
    paused: bool
    publish: str
    data: object
    next_at: str | None
    last_run: TaskRun | None


class TaskRun(TypedDict):
    planned_at: str
    state: Literal["running", "waiting", "done", "failed", "cancelled", "skipped", "missed"]
    begins: int
    started_at: str | None
    ended_at: str | None
    outcome: str | None


class PublishedEvent(TypedDict):
    id: str
    topic: str
    key: str | None
    source: str
    data: object
    created_at: str


class Session(TypedDict):
    id: str
    worker: str
    rule: str
    group: str
    mode: Literal["fresh", "resume", "explicit"]
    event: str
    entry: str
    state: Literal["starting", "running", "done", "failed", "stopped", "timeout", "full", "lost"]
    started_at: str
    ended_at: str | None
    seconds: float
    requests: int
    denials: int
    approvals: int
    exit_code: int | None
    exit_signal: str | None
    outcome: str | None
    log_dir: str | None


class SessionDescriptionCalls(TypedDict):
    time: str
    tool: str
    code: str | None
    ms: float


class SessionDescriptionOutput(TypedDict):
    time: str
    stream: Literal["stdout", "stderr"]
    text: str


class SessionDescription(Session):
    source: str
    prompt: str | None
    calls: list[SessionDescriptionCalls]
    output: list[SessionDescriptionOutput]
    is_cut: bool
    workspace: str
    workspace_bytes: int | None
    workspace_files: int | None


class ApprovalStatus(TypedDict):
    id: str
    worker: str
    session: str
    group: str
    tool: str
    policy: str
    asked_at: str
    expires_at: str
    bytes: int
    sha256: str


class ApprovalPage(TypedDict):
    approval: ApprovalStatus
    page: int
    pages: int
    lines: list[str]


class GrantStatus(TypedDict):
    id: str
    worker: str
    session: str
    tool: str
    granted_at: str
    uid: int
    uses: int
    lines: list[str]
    whole: bool


class StartedInstances(TypedDict):
    name: str
    pid: int | None


class Started(TypedDict):
    message: str
    name: str
    pid: int | None
    already_running: NotRequired[bool]
    is_other_definition: NotRequired[bool]
    instances: NotRequired[list[StartedInstances]]
