#include "parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long a request may take: a person may be asked meanwhile. */
#define ANSWER_MS 330000u
/* How long there may be no channel. */
#define OPEN_MS 30000u

static void add_text(struct ipc_bytes *bytes, const char *text)
{
	ipc_bytes_add(bytes, text, strlen(text));
}

/* A request of the host tells itself apart by an id that it prints and records as it is. */
static bool is_correlation(const char *id, size_t size)
{
	if (size < 1 || size > IPC_CORRELATION_CHARS_MAX || id[0] == '~')
		return false;
	for (size_t i = 0; i < size; i++)
		if (id[i] < ' ' || id[i] > '~' || id[i] == '\\')
			return false;
	return true;
}

bool ipc_requests_add(struct ipc_requests *requests, const struct ipc_line *line, const uint8_t *text, uint64_t now)
{
	struct ipc_request *request = ipc_lines_memory(NULL, sizeof *request);
	*request = (struct ipc_request){ .at_ms = now };
	const char *id = line->id + 1; /* within its quotes */
	size_t id_size = line->id_size - 2;
	if (is_correlation(id, id_size))
		memcpy(request->correlation, id, id_size); /* which ends in zeros */
	else
		snprintf(request->correlation, sizeof request->correlation, "~%llu",
			(unsigned long long)++requests->strange);
	ipc_bytes_add(&request->id, line->id, line->id_size);
	/* In the order that lets the host answer what it refuses to parse. */
	struct ipc_bytes *wire = &request->wire;
	add_text(wire, "{\"topic\":\"" IPC_TOOL_TOPIC);
	ipc_bytes_add(wire, line->method, line->method_size);
	add_text(wire, "\",\"correlation\":\"");
	add_text(wire, request->correlation);
	add_text(wire, "\",\"arguments\":");
	if (line->has[IPC_LINE_PARAMS])
		ipc_bytes_add(wire, text + line->params, line->params_end - line->params);
	else
		add_text(wire, "{}");
	/* The host refuses what stands twice. */
	add_text(wire, line->is_twice ? ",\"arguments\":{}}" : "}");
	if (wire->size > IPC_HOST_MESSAGE_BYTES_MAX) {
		free(request->id.all);
		free(wire->all);
		free(request);
		return false;
	}
	*requests->end = request;
	requests->end = &request->next;
	requests->count++;
	requests->bytes += wire->size;
	return true;
}

static void forget(struct ipc_requests *requests, struct ipc_request **place)
{
	struct ipc_request *request = *place;
	*place = request->next;
	if (requests->end == &request->next)
		requests->end = place;
	requests->count--;
	requests->bytes -= request->wire.size;
	free(request->id.all);
	free(request->wire.all);
	free(request);
}

void ipc_requests_give_up(struct ipc_requests *requests, struct ipc_answers *answers, const struct ipc_line *line)
{
	for (struct ipc_request **place = &requests->first; *place != NULL; place = &(*place)->next) {
		struct ipc_request *request = *place;
		if (request->id.size != line->id_size || memcmp(request->id.all, line->id, line->id_size) != 0)
			continue;
		request->is_given_up = true;
		if (request->was_sent)
			return;
		ipc_requests_refuse(answers, line->id, line->id_size, "CANCELLED",
			"the worker gave it up before it was carried out", false);
		forget(requests, place);
		return;
	}
}

static int send_cancel(struct host_channel *channel, const struct ipc_request *request)
{
	char text[IPC_CORRELATION_CHARS_MAX + 80];
	int size = snprintf(text, sizeof text,
		"{\"topic\":\"" IPC_CANCEL_TOPIC "\",\"correlation\":\"%s\",\"arguments\":{}}", request->correlation);
	return ipc_ring_send(&channel->tx, text, (uint32_t)size);
}

bool ipc_requests_send(struct ipc_requests *requests, struct host_channel *channel, size_t most)
{
	size_t under_way = 0;
	for (struct ipc_request *one = requests->first; one != NULL; one = one->next) {
		bool *is_sent = one->is_sent ? &one->is_cancel_sent : &one->is_sent;
		if (one->is_sent) {
			under_way++;
			if (!one->is_given_up || one->is_cancel_sent)
				continue;
		} else if (under_way >= most) {
			continue;
		}
		int sent = one->is_sent ? send_cancel(channel, one)
					: ipc_ring_send(&channel->tx, one->wire.all, one->wire.size);
		if (sent == IPC_RING_NOTHING)
			break; /* a bell says when there is room */
		if (sent != IPC_RING_OK)
			return false;
		if (!one->is_sent)
			under_way++;
		*is_sent = one->was_sent = true;
		host_channel_wake(channel, &channel->tx);
	}
	return true;
}

void ipc_requests_unsend(struct ipc_requests *requests)
{
	for (struct ipc_request *one = requests->first; one != NULL; one = one->next)
		one->is_sent = one->is_cancel_sent = false;
}

/* The first one with this correlation; or the last one, since what is refused because another one is under way came
 * after that. */
static struct ipc_request **find(struct ipc_requests *requests, const char *correlation, size_t size, bool is_last)
{
	struct ipc_request **found = NULL;
	for (struct ipc_request **at = &requests->first; *at != NULL; at = &(*at)->next) {
		bool is_it = (*at)->is_sent && strlen((*at)->correlation) == size
			     && memcmp((*at)->correlation, correlation, size) == 0;
		if (!is_it)
			continue;
		found = at;
		if (!is_last)
			break;
	}
	return found;
}

static void begin_answer(struct ipc_bytes *answer, const char *id, size_t id_size)
{
	add_text(answer, "{\"id\":");
	ipc_bytes_add(answer, id, id_size);
}

/* `more`: what the host says of it beyond that, as fields with a comma before each. */
static void end_answer(struct ipc_bytes *answer, const char *code, size_t code_size, const char *message,
	size_t message_size, bool is_retriable, const char *more, size_t more_size)
{
	add_text(answer, ",\"error\":\"");
	ipc_bytes_add(answer, code, code_size);
	add_text(answer, ": ");
	ipc_bytes_add(answer, message, message_size);
	add_text(answer, "\",\"code\":\"");
	ipc_bytes_add(answer, code, code_size);
	add_text(answer, is_retriable ? "\",\"retriable\":true" : "\",\"retriable\":false");
	ipc_bytes_add(answer, more, more_size);
	add_text(answer, "}\n");
}

void ipc_requests_refuse(struct ipc_answers *answers, const char *id, size_t id_size, const char *code,
	const char *message, bool is_retriable)
{
	struct ipc_bytes answer = { 0 };
	begin_answer(&answer, id, id_size);
	end_answer(&answer, code, strlen(code), message, strlen(message), is_retriable, "", 0);
	ipc_answers_add(answers, answer);
}

/* A text that is looked at from its beginning. */
struct rest {
	const char *at;
	size_t size;
};

static bool skip(struct rest *rest, const char *head)
{
	size_t size = strlen(head);
	if (rest->size < size || memcmp(rest->at, head, size) != 0)
		return false;
	rest->at += size;
	rest->size -= size;
	return true;
}

/* Up to the quote that ends a string, and past it. */
static bool take_string(struct rest *rest, struct rest *string)
{
	for (size_t i = 0; i < rest->size; i++) {
		if (rest->at[i] == '\\') {
			i++;
		} else if (rest->at[i] == '"') {
			*string = (struct rest){ rest->at, i };
			rest->at += i + 1;
			rest->size -= i + 1;
			return true;
		}
	}
	return false;
}

/* Newlines of JSON are only blanks between its parts; here they would end the line. */
static void add_line(struct ipc_bytes *answer, struct rest result)
{
	size_t from = answer->size;
	ipc_bytes_add(answer, result.at, result.size);
	for (size_t i = from; i < answer->size; i++)
		if (answer->all[i] == '\n' || answer->all[i] == '\r')
			answer->all[i] = ' ';
	add_text(answer, "\n");
}

/* The host writes its answers in this form only. */
void ipc_requests_settle(struct ipc_requests *requests, struct ipc_answers *answers, const char *text, size_t size)
{
	struct rest rest = { text, size }, correlation, code = { "", 0 }, message = { "", 0 };
	if (!skip(&rest, "{\"correlation\":\"") || !take_string(&rest, &correlation))
		return;
	bool is_result = skip(&rest, ",\"result\":");
	bool is_error = !is_result && skip(&rest, ",\"error\":{\"code\":\"") && take_string(&rest, &code)
			&& skip(&rest, ",\"message\":\"") && take_string(&rest, &message);
	bool is_last = is_error && code.size == strlen("DUPLICATE_CORRELATION")
		       && memcmp(code.at, "DUPLICATE_CORRELATION", code.size) == 0;
	struct ipc_request **place = find(requests, correlation.at, correlation.size, is_last);
	if (place == NULL || !(is_result || is_error))
		return; /* it was given up */
	struct ipc_bytes answer = { 0 };
	begin_answer(&answer, (const char *)(*place)->id.all, (*place)->id.size);
	if (is_result) {
		add_text(&answer, ",\"result\":");
		add_line(&answer, rest);
	} else {
		bool is_retriable = skip(&rest, ",\"retriable\":true");
		if (!is_retriable)
			skip(&rest, ",\"retriable\":false");
		size_t more = rest.size > 2 ? rest.size - 2 : 0; /* up to the ends of error and answer */
		end_answer(&answer, code.at, code.size, message.at, message.size, is_retriable, rest.at, more);
	}
	ipc_answers_add(answers, answer);
	forget(requests, place);
}

uint64_t ipc_requests_expire(struct ipc_requests *requests, struct ipc_answers *answers, uint64_t lost_at, uint64_t now)
{
	uint64_t due = IPC_LINES_NEVER;
	for (struct ipc_request **place = &requests->first; *place != NULL;) {
		struct ipc_request *request = *place;
		uint64_t end = request->at_ms + ANSWER_MS;
		bool is_lost = lost_at != IPC_LINES_NEVER;
		if (is_lost) {
			uint64_t since = lost_at > request->at_ms ? lost_at : request->at_ms;
			end = since + OPEN_MS < end ? since + OPEN_MS : end;
		}
		if (now < end) {
			due = end < due ? end : due;
			place = &request->next;
			continue;
		}
		const char *id = (const char *)request->id.all;
		if (!request->was_sent)
			ipc_requests_refuse(answers, id, request->id.size, "PLUGIN_UNAVAILABLE",
				"the host has not taken it in time", true);
		else
			ipc_requests_refuse(answers, id, request->id.size, "UNKNOWN_OUTCOME",
				is_lost ? "the host ended before it answered, and no other one came in time"
					: "no answer in time",
				false);
		forget(requests, place);
	}
	return due;
}
