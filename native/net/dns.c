/* DNS messages. Every read is checked against the size first; nothing allocates and nothing recurses. */
#include "parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define HEAD 12
#define WIRE_NAME_MAX 255
#define JUMPS_MAX 32
#define ALIASES_MAX 8
#define STUB_TTL 60u
#define CLASS_IN 1
#define TYPE_CNAME 5

static uint16_t get_u16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void put_u16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint32_t get_u32(const uint8_t *at)
{
	return (uint32_t)get_u16(at) << 16 | get_u16(at + 2);
}

static bool is_plain_byte(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
}

/* Reads a name at `*at` and advances past it. False: it does not end within the message, or is too long. Without
 * `may_jump` a pointer is refused too; a pointer must lead backwards, so that this terminates. */
static bool read_name(
	const uint8_t *message, size_t size, size_t *at, bool may_jump, char text[IPC_DNS_TEXT], bool *is_plain)
{
	size_t here = *at, out = 0, wire = 1;
	unsigned jumps = 0;
	bool is_number = true;
	*is_plain = true;
	for (;;) {
		if (here >= size)
			return false;
		uint8_t length = message[here];
		if ((length & 0xc0) == 0xc0) {
			if (!may_jump || here + 1 >= size || ++jumps > JUMPS_MAX)
				return false;
			size_t to = get_u16(message + here) & 0x3fffu;
			if (to >= here)
				return false;
			if (jumps == 1)
				*at = here + 2;
			here = to;
			continue;
		}
		if (length > 63 || here + 1 + length > size)
			return false;
		here++;
		if (length == 0)
			break;
		wire += length + 1u;
		if (wire > WIRE_NAME_MAX)
			return false;
		if (out > 0)
			text[out++] = '.';
		is_number = true;
		for (uint8_t i = 0; i < length; i++) {
			uint8_t byte = message[here + i];
			if (byte >= 'A' && byte <= 'Z')
				byte = (uint8_t)(byte + 32);
			if (is_plain_byte(byte)) {
				text[out++] = (char)byte;
				is_number = is_number && byte >= '0' && byte <= '9';
			} else {
				out += (size_t)snprintf(text + out, 5, "\\%03u", byte);
				*is_plain = is_number = false;
			}
		}
		here += length;
	}
	text[out] = 0;
	if (jumps == 0)
		*at = here;
	if (out == 0 || is_number)
		*is_plain = false;
	return true;
}

int ipc_dns_read_question(const uint8_t *message, size_t size, struct ipc_question *question)
{
	memset(question, 0, sizeof *question);
	if (size < HEAD || (message[2] & 0x80) != 0)
		return -1;
	if ((message[2] & 0x78) != 0)
		return IPC_RCODE_NOT_IMPLEMENTED;
	size_t at = HEAD;
	if (get_u16(message + 4) != 1 || get_u16(message + 6) != 0 || get_u16(message + 8) != 0)
		return IPC_RCODE_FORMAT;
	if (!read_name(message, size, &at, false, question->text, &question->is_plain) || size - at < 4) {
		question->text[0] = 0;
		return IPC_RCODE_FORMAT;
	}
	question->type = get_u16(message + at);
	question->end = at + 4;
	return get_u16(message + at + 2) == CLASS_IN ? IPC_RCODE_OK : IPC_RCODE_NOT_IMPLEMENTED;
}

size_t ipc_dns_write_answer(
	const uint8_t *query, const struct ipc_question *question, int rcode, const uint8_t *address, uint8_t *out)
{
	size_t size = question->end > HEAD ? question->end : HEAD;
	memcpy(out, query, size);
	out[2] = (uint8_t)(0x80 | (query[2] & 0x79)); /* an answer; opcode and RD as in the question */
	out[3] = (uint8_t)(0x80 | rcode);
	put_u16(out + 4, size > HEAD ? 1 : 0);
	put_u16(out + 6, address != NULL ? 1 : 0);
	memset(out + 8, 0, 4);
	if (address == NULL)
		return size;
	put_u16(out + size, 0xc000 | HEAD);
	put_u16(out + size + 2, IPC_DNS_A);
	put_u16(out + size + 4, CLASS_IN);
	put_u16(out + size + 6, 0);
	put_u16(out + size + 8, STUB_TTL);
	put_u16(out + size + 10, 4);
	memcpy(out + size + 12, address, 4);
	return size + 16;
}

size_t ipc_dns_write_question(uint16_t id, const char *name, uint16_t type, uint8_t out[IPC_DNS_QUERY_MAX])
{
	memset(out, 0, HEAD);
	put_u16(out, id);
	out[2] = 1; /* recursion desired */
	put_u16(out + 4, 1);
	size_t at = HEAD;
	while (*name != 0) {
		size_t length = strcspn(name, ".");
		if (length == 0 || length > 63 || at - HEAD + length + 2 > WIRE_NAME_MAX)
			return 0;
		out[at] = (uint8_t)length;
		memcpy(out + at + 1, name, length);
		at += length + 1;
		name += length + (name[length] == '.');
	}
	out[at++] = 0;
	put_u16(out + at, type);
	put_u16(out + at + 2, CLASS_IN);
	return at + 4;
}

struct record {
	char owner[IPC_DNS_TEXT];
	bool is_plain;
	uint16_t type, class;
	uint32_t ttl;
	size_t data, size;
};

static bool read_record(const uint8_t *message, size_t size, size_t *at, struct record *record)
{
	if (!read_name(message, size, at, true, record->owner, &record->is_plain) || size - *at < 10)
		return false;
	record->type = get_u16(message + *at);
	record->class = get_u16(message + *at + 2);
	record->ttl = get_u32(message + *at + 4);
	record->size = get_u16(message + *at + 8);
	record->data = *at + 10;
	if (record->size > size - record->data)
		return false;
	*at = record->data + record->size;
	return true;
}

static void keep(struct ipc_found *found, const uint8_t *message, const struct record *record)
{
	size_t want = record->type == IPC_DNS_A ? 4 : 16;
	if (record->size != want || found->count == IPC_CANDIDATES_MAX)
		return;
	struct ipc_address *address = &found->address[found->count++];
	*address = ipc_address_v4(0, 0, 0, 0);
	memcpy(address->bytes + 16 - want, message + record->data, want);
}

/* One pass over the answers: true and the next name if `name` is an alias. */
static bool collect(const uint8_t *message, size_t size, size_t at, unsigned count, char name[IPC_DNS_TEXT],
	uint16_t type, struct ipc_found *found, bool *is_broken)
{
	struct record record;
	for (unsigned i = 0; i < count; i++) {
		if (!read_record(message, size, &at, &record)) {
			*is_broken = true;
			return false;
		}
		if (record.class != CLASS_IN || strcmp(record.owner, name) != 0)
			continue;
		if (record.ttl < found->ttl)
			found->ttl = record.ttl;
		if (record.type == type) {
			keep(found, message, &record);
		} else if (record.type == TYPE_CNAME) {
			bool is_plain;
			size_t target = record.data;
			if (!read_name(message, size, &target, true, name, &is_plain)) {
				*is_broken = true;
				return false;
			}
			return true;
		}
	}
	return false;
}

enum ipc_dns_outcome ipc_dns_read_answer(
	const uint8_t *message, size_t size, uint16_t id, const char *name, uint16_t type, struct ipc_found *found)
{
	char current[IPC_DNS_TEXT];
	bool is_plain;
	size_t at = HEAD;
	memset(found, 0, sizeof *found);
	found->ttl = UINT32_MAX;
	if (size < HEAD || get_u16(message) != id || (message[2] & 0xf8) != 0x80 || get_u16(message + 4) != 1)
		return IPC_DNS_FOREIGN;
	if (!read_name(message, size, &at, false, current, &is_plain) || size - at < 4)
		return IPC_DNS_FOREIGN;
	if (strcasecmp(current, name) != 0 || get_u16(message + at) != type || get_u16(message + at + 2) != CLASS_IN)
		return IPC_DNS_FOREIGN;
	at += 4;
	int rcode = message[3] & 0xf;
	if (rcode == IPC_RCODE_NO_NAME)
		return IPC_DNS_NOTHING;
	if (rcode != IPC_RCODE_OK)
		return IPC_DNS_BROKEN;
	if ((message[2] & 2) != 0)
		return IPC_DNS_TRUNCATED;
	bool is_broken = false;
	for (unsigned alias = 0; alias <= ALIASES_MAX; alias++) {
		if (!collect(message, size, at, get_u16(message + 6), current, type, found, &is_broken))
			break;
	}
	if (is_broken)
		return IPC_DNS_BROKEN;
	return found->count > 0 ? IPC_DNS_FOUND : IPC_DNS_NOTHING;
}
