#include "line.h"

#include <string.h>

static const char *const FIELDS[IPC_LINE_FIELDS] = { NULL, "id", "method", "params" };

void ipc_line_begin(struct ipc_line *line)
{
	memset(line, 0, offsetof(struct ipc_line, key_size));
}

bool ipc_line_is_request(const struct ipc_line *line)
{
	return line->state == IPC_IS_WHOLE && line->has[IPC_LINE_ID] && line->has[IPC_LINE_METHOD];
}

static bool is_space(uint8_t byte)
{
	return byte == ' ' || byte == '\t' || byte == '\r';
}

static bool is_digit(uint8_t byte)
{
	return byte >= '0' && byte <= '9';
}

static bool is_hex(uint8_t byte)
{
	return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

static bool is_in_object(const struct ipc_line *line)
{
	size_t level = line->depth - 1;
	return (line->objects[level / 8] >> level % 8 & 1) != 0;
}

static bool open_level(struct ipc_line *line, bool is_object)
{
	size_t level = line->depth;
	if (level == 8 * sizeof line->objects)
		return false;
	uint8_t bit = (uint8_t)(1u << level % 8);
	line->objects[level / 8] =
		(uint8_t)(is_object ? line->objects[level / 8] | bit : line->objects[level / 8] & ~bit);
	line->depth++;
	line->state = is_object ? IPC_WANTS_KEY_OR_END : IPC_WANTS_VALUE_OR_END;
	return true;
}

/* `end`: where the value ends. */
static bool end_value(struct ipc_line *line, size_t end)
{
	line->state = line->depth == 0 ? IPC_IS_WHOLE : IPC_WANTS_MORE;
	if (line->depth == 1 && line->field == IPC_LINE_PARAMS)
		line->params_end = end;
	return true;
}

static bool close_level(struct ipc_line *line, bool is_object)
{
	if (is_in_object(line) != is_object)
		return false;
	line->depth--;
	return end_value(line, line->at + 1);
}

static bool begin_key(struct ipc_line *line)
{
	line->is_key = true;
	line->key_size = 0;
	line->state = IPC_IN_STRING;
	return true;
}

static bool end_key(struct ipc_line *line)
{
	line->is_key = false;
	line->state = IPC_WANTS_COLON;
	if (line->depth > 1)
		return true;
	for (int field = IPC_LINE_ID; field < IPC_LINE_FIELDS; field++)
		if (strlen(FIELDS[field]) == line->key_size && memcmp(FIELDS[field], line->key, line->key_size) == 0) {
			line->field = (enum ipc_line_field)field;
			line->is_twice |= line->has[field];
			line->has[field] = true;
			return true;
		}
	return false;
}

/* Of a string that is not within params, whatever stands between its quotes. */
static bool note(struct ipc_line *line, char byte, bool is_in_escape)
{
	if (line->depth != 1)
		return true;
	if (line->is_key) {
		if (line->key_size == sizeof line->key)
			return false;
		line->key[line->key_size++] = byte;
	} else if (line->field == IPC_LINE_ID) {
		if (line->id_size == sizeof line->id)
			return false;
		line->id[line->id_size++] = byte;
	} else if (line->field == IPC_LINE_METHOD && !is_in_escape && line->method_size < sizeof line->method) {
		line->method[line->method_size++] = byte == '\\' ? '?' : byte;
	}
	return true;
}

static bool begin_value(struct ipc_line *line, uint8_t byte)
{
	bool is_field = line->depth == 1;
	if (is_field && line->field != IPC_LINE_PARAMS && byte != '"')
		return false;
	if (is_field && line->field == IPC_LINE_PARAMS)
		line->params = line->at;
	switch (byte) {
	case '{': return open_level(line, true);
	case '[': return open_level(line, false);
	case '"':
		line->state = IPC_IN_STRING;
		if (is_field && line->field == IPC_LINE_ID) {
			line->id_size = 0;
			return note(line, '"', false);
		}
		if (is_field && line->field == IPC_LINE_METHOD)
			line->method_size = 0;
		return true;
	case '-': line->state = IPC_AFTER_MINUS; return true;
	case '0': line->state = IPC_AFTER_ZERO; return true;
	case 't': line->literal = "rue"; break;
	case 'f': line->literal = "alse"; break;
	case 'n': line->literal = "ull"; break;
	default: line->state = IPC_IN_INTEGER; return is_digit(byte);
	}
	line->state = IPC_IN_LITERAL;
	return true;
}

static bool in_string(struct ipc_line *line, uint8_t byte)
{
	if (byte < ' ')
		return false;
	if (byte == '\\') {
		line->state = IPC_IN_ESCAPE;
		return note(line, '\\', false);
	}
	if (byte != '"')
		return note(line, (char)byte, false);
	if (line->is_key)
		return end_key(line);
	bool is_id = line->depth == 1 && line->field == IPC_LINE_ID;
	return (!is_id || note(line, '"', false)) && end_value(line, line->at + 1);
}

static bool in_escape(struct ipc_line *line, uint8_t byte)
{
	line->state = IPC_IN_STRING;
	if (byte == 'u') {
		line->state = IPC_IN_HEX;
		line->hex = 4;
	} else if (byte == 0 || strchr("\"\\/bfnrt", byte) == NULL) {
		return false;
	}
	return note(line, (char)byte, true);
}

static bool in_hex(struct ipc_line *line, uint8_t byte)
{
	if (--line->hex == 0)
		line->state = IPC_IN_STRING;
	return is_hex(byte) && note(line, (char)byte, true);
}

static bool wants_more(struct ipc_line *line, uint8_t byte)
{
	bool is_object = is_in_object(line);
	if (byte == ',') {
		line->state = is_object ? IPC_WANTS_KEY : IPC_WANTS_VALUE;
		return true;
	}
	return byte == (is_object ? '}' : ']') && close_level(line, is_object);
}

/* The byte after a number is not part of it. */
static bool after_number(struct ipc_line *line, uint8_t byte)
{
	end_value(line, line->at);
	return is_space(byte) || wants_more(line, byte);
}

static bool go_on(struct ipc_line *line, int state)
{
	line->state = state;
	return true;
}

static bool in_number(struct ipc_line *line, uint8_t byte)
{
	bool has_digit = is_digit(byte), is_exponent = byte == 'e' || byte == 'E';
	switch (line->state) {
	case IPC_AFTER_MINUS: return has_digit && go_on(line, byte == '0' ? IPC_AFTER_ZERO : IPC_IN_INTEGER);
	case IPC_AFTER_POINT: return has_digit && go_on(line, IPC_IN_FRACTION);
	case IPC_AFTER_EXPONENT:
		return byte == '+' || byte == '-' ? go_on(line, IPC_AFTER_SIGN)
						  : has_digit && go_on(line, IPC_IN_EXPONENT);
	case IPC_AFTER_SIGN: return has_digit && go_on(line, IPC_IN_EXPONENT);
	case IPC_IN_EXPONENT: return has_digit || after_number(line, byte);
	case IPC_IN_FRACTION:
		if (has_digit)
			return true;
		return is_exponent ? go_on(line, IPC_AFTER_EXPONENT) : after_number(line, byte);
	case IPC_IN_INTEGER:
		if (has_digit)
			return true;
		break;
	default: break;
	}
	if (byte == '.')
		return go_on(line, IPC_AFTER_POINT);
	return is_exponent ? go_on(line, IPC_AFTER_EXPONENT) : after_number(line, byte);
}

static bool take(struct ipc_line *line, uint8_t byte)
{
	switch (line->state) {
	case IPC_IN_STRING: return in_string(line, byte);
	case IPC_IN_ESCAPE: return in_escape(line, byte);
	case IPC_IN_HEX: return in_hex(line, byte);
	case IPC_IN_LITERAL:
		if (byte != (uint8_t)*line->literal++)
			return false;
		return *line->literal != 0 || end_value(line, line->at + 1);
	case IPC_AFTER_MINUS:
	case IPC_AFTER_ZERO:
	case IPC_IN_INTEGER:
	case IPC_AFTER_POINT:
	case IPC_IN_FRACTION:
	case IPC_AFTER_EXPONENT:
	case IPC_AFTER_SIGN:
	case IPC_IN_EXPONENT: return in_number(line, byte);
	default: break;
	}
	if (is_space(byte))
		return true;
	switch (line->state) {
	case IPC_WANTS_OBJECT: return byte == '{' && open_level(line, true);
	case IPC_WANTS_KEY_OR_END:
		if (byte == '}')
			return close_level(line, true);
		return byte == '"' && begin_key(line);
	case IPC_WANTS_KEY: return byte == '"' && begin_key(line);
	case IPC_WANTS_COLON: line->state = IPC_WANTS_VALUE; return byte == ':';
	case IPC_WANTS_VALUE: return begin_value(line, byte);
	case IPC_WANTS_VALUE_OR_END: return byte == ']' ? close_level(line, false) : begin_value(line, byte);
	case IPC_WANTS_MORE: return wants_more(line, byte);
	default: return false;
	}
}

bool ipc_line_feed(struct ipc_line *line, uint8_t byte)
{
	bool may_be = take(line, byte);
	line->at++;
	return may_be;
}
