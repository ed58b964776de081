/* `ipc`: asks the host from a shell in a worker. It prints the result as JSON, or the error as JSON on stderr. */
#include "ask.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* A person may be asked meanwhile. */
#define DEADLINE_SECONDS 330.0
#define DEADLINE_SECONDS_MAX 1e6
#define EXIT_USAGE 2
/* Of a request, all but the name of the tool and the arguments: at most as many. */
#define ENVELOPE_BYTES 200

static const char USAGE[] =
	"usage: ipc [--deadline SECONDS] call PLUGIN.TOOL [JSON|-]\n"
	"       ipc [--deadline SECONDS] tools | skills\n"
	"Calls a tool that the policy of this worker grants, with its arguments as a JSON object (- reads\n"
	"them from stdin); lists those tools; or tells when to call them, which the files in $IPCCTL_SKILLS\n"
	"do as well. The result is JSON on stdout; an error is JSON on stderr. It asks beside whatever else of\n"
	"the worker asks, with the same grants and rates.\n";

static const struct {
	const char *code;
	int status;
} EXITS[] = { IPC_HOST_EXITS };

static int exit_of(const char *code, size_t length)
{
	for (size_t i = 0; i < sizeof EXITS / sizeof *EXITS; i++)
		if (strlen(EXITS[i].code) == length && memcmp(EXITS[i].code, code, length) == 0)
			return EXITS[i].status;
	return 1;
}

static int usage(const char *what, const char *value)
{
	fprintf(stderr, "ipc: %s%s%s\n%s", what, value == NULL ? "" : ": ", value == NULL ? "" : value, USAGE);
	return EXIT_USAGE;
}

/* As the host's own errors; of what is said here, paths and numbers are all that needs care. */
static int refuse(const struct ask_failure *failure)
{
	fprintf(stderr, "{\"error\":{\"code\":\"%s\",\"message\":\"", failure->code);
	for (const char *at = failure->message; *at != 0; at++) {
		unsigned char byte = (unsigned char)*at;
		if (!isprint(byte))
			fputc('?', stderr);
		else
			fprintf(stderr, byte == '"' || byte == '\\' ? "\\%c" : "%c", byte);
	}
	fprintf(stderr, "\",\"retriable\":%s}}\n", failure->is_retriable ? "true" : "false");
	return exit_of(failure->code, strlen(failure->code));
}

static bool is_tool(const char *name)
{
	for (const char *at = name; *at != 0; at++)
		if (!isalnum((unsigned char)*at) && strchr("_-.", *at) == NULL)
			return false;
	return *name != 0;
}

/* Up to one byte more than a request may have, so that more is noticed. NULL without memory. */
static char *read_all(size_t *size)
{
	size_t most = IPC_HOST_MESSAGE_BYTES_MAX + 1;
	char *text = malloc(most);
	*size = 0;
	while (text != NULL && *size < most) {
		ssize_t count = read(STDIN_FILENO, text + *size, most - *size);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			break;
		*size += (size_t)count;
	}
	return text;
}

static bool starts_with(const char *text, size_t size, const char *head)
{
	return size >= strlen(head) && memcmp(text, head, strlen(head)) == 0;
}

/* The host writes its answers in one form: the correlation, then the result or the error, and nothing else. */
static int tell(const char *answer, size_t size, const char *correlation)
{
	static const char ERROR[] = ",\"error\":";
	static const char CODE[] = ",\"error\":{\"code\":\"";
	char head[64];
	int length = snprintf(head, sizeof head, "{\"correlation\":\"%s\",\"result\":", correlation);
	if (starts_with(answer, size, head) && answer[size - 1] == '}') {
		size_t begin = (size_t)length;
		bool is_written = fwrite(answer + begin, 1, size - 1 - begin, stdout) == size - 1 - begin
				  && putchar('\n') != EOF && fflush(stdout) == 0;
		if (!is_written)
			perror("ipc: the result cannot be written");
		return is_written ? 0 : 1;
	}
	/* The correlation is null if the request could not be read. */
	const char *error = strstr(answer, ERROR);
	if (error == NULL) {
		fprintf(stderr, "ipc: the host gave no answer that is known here\n");
		return 1;
	}
	fprintf(stderr, "{%s\n", error + 1);
	if (strncmp(error, CODE, strlen(CODE)) != 0)
		return 1;
	const char *code = error + strlen(CODE);
	return exit_of(code, strcspn(code, "\""));
}

static int call(const char *tool, const char *arguments, size_t size, double deadline)
{
	/* By chance, so that no two commands of a worker are taken for one. */
	uint64_t chance;
	if (getrandom(&chance, sizeof chance, 0) != (ssize_t)sizeof chance) {
		perror("ipc: no random number");
		return 1;
	}
	char correlation[32];
	snprintf(correlation, sizeof correlation, "ipc-%016llx", (unsigned long long)chance);
	char *request = malloc(strlen(tool) + size + ENVELOPE_BYTES);
	if (request == NULL) {
		perror("ipc");
		return 1;
	}
	/* Topic and correlation come first, so that the host can answer what it refuses to parse. */
	int head = sprintf(request, "{\"topic\":\"" IPC_TOOL_TOPIC "%s\",\"correlation\":\"%s\",\"arguments\":", tool,
		correlation);
	size_t length = (size_t)head;
	memcpy(request + length, arguments, size);
	length += size;
	request[length++] = '}';
	struct ask_failure failure = { "TOO_LARGE", false, "" };
	if (length > IPC_HOST_MESSAGE_BYTES_MAX) {
		snprintf(failure.message, sizeof failure.message,
			"%s: the arguments are too long: a request has at most %d bytes", tool,
			IPC_HOST_MESSAGE_BYTES_MAX);
		return refuse(&failure);
	}
	size_t answer_size = 0;
	char *answer = ask_host(request, length, (uint64_t)(deadline * 1000), &answer_size, &failure);
	free(request);
	if (answer == NULL)
		return refuse(&failure);
	int status = tell(answer, answer_size, correlation);
	free(answer);
	return status;
}

int main(int count, char **words)
{
	double deadline = DEADLINE_SECONDS;
	int at = 1;
	for (; at < count && words[at][0] == '-' && words[at][1] != 0; at++) {
		if (strcmp(words[at], "--help") == 0 || strcmp(words[at], "-h") == 0)
			return fputs(USAGE, stdout) < 0;
		if (strcmp(words[at], "--deadline") != 0)
			return usage("no such option", words[at]);
		char *rest = NULL;
		const char *value = ++at < count ? words[at] : "";
		deadline = strtod(value, &rest);
		if (*value == 0 || *rest != 0 || !(deadline > 0) || deadline > DEADLINE_SECONDS_MAX)
			return usage("--deadline wants seconds", value);
	}
	int left = count - at;
	const char *verb = left > 0 ? words[at] : "";
	if (strcmp(verb, "tools") == 0 && left == 1)
		return call("core.list_tools", "{}", 2, deadline);
	if (strcmp(verb, "skills") == 0 && left == 1)
		return call("core.get_skills", "{}", 2, deadline);
	if (strcmp(verb, "call") != 0 || left < 2 || left > 3)
		return usage(left == 0 ? "call, tools or skills" : "this is not understood", left == 0 ? NULL : verb);
	const char *tool = words[at + 1], *arguments = left == 3 ? words[at + 2] : "{}";
	if (!is_tool(tool))
		return usage("no name of a tool", tool);
	if (strcmp(arguments, "-") != 0)
		return call(tool, arguments, strlen(arguments), deadline);
	size_t size;
	char *text = read_all(&size);
	if (text == NULL) {
		perror("ipc");
		return 1;
	}
	int status = call(tool, text, size, deadline);
	free(text);
	return status;
}
