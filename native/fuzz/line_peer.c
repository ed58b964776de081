/* What the line helper knows of each line of stdin, for tests that compare it with a parser of JSON: `-` for output;
 * for a request its id, its method, its params and whether a field stands twice, with tabs between. */
#include "../lines/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct ipc_line line;

int main(void)
{
	size_t size = 0, room = 16 * 1024 * 1024;
	char *text = malloc(room);
	if (text == NULL)
		return 1;
	for (size_t count; (count = fread(text + size, 1, room - size, stdin)) > 0;)
		size += count;
	for (char *at = text, *end; (end = memchr(at, '\n', size - (size_t)(at - text))) != NULL; at = end + 1) {
		bool may_be = true;
		ipc_line_begin(&line);
		for (const char *byte = at; may_be && byte < end; byte++)
			may_be = ipc_line_feed(&line, (uint8_t)*byte);
		if (!may_be || !ipc_line_is_request(&line)) {
			puts("-");
			continue;
		}
		size_t params = line.params_end - line.params;
		printf("%.*s\t%.*s\t%.*s\t%d\n", (int)line.id_size, line.id, (int)line.method_size, line.method,
			(int)params, at + line.params, line.is_twice);
	}
	free(text);
	return 0;
}
