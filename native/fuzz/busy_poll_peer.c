/*
 * The rules of a worker's waiting, driven by a script, for the tests that compare languages. Reads lines:
 *   rest NOW HERE LOAD | found WAS_OFF | missed | slept NOW | from CORE TAKEN
 * and prints for each: the decision (or -), skip, misses.
 */
#include "../python/busy_poll.h"

#include <inttypes.h>
#include <stdio.h>

int main(void)
{
	struct ipc_busy_poll busy_poll = { 0 };
	static const char *const names[] = { "sleep", "look", "part", "join" };
	char line[128];
	while (fgets(line, sizeof line, stdin) != NULL) {
		const char *decision = "-";
		int64_t now;
		unsigned first, second;
		int load;
		if (sscanf(line, "rest %" SCNd64 " %u %d", &now, &first, &load) == 3)
			decision = names[ipc_busy_poll_rest(&busy_poll, now, first, (enum ipc_load)load)];
		else if (sscanf(line, "found %u", &first) == 1)
			ipc_busy_poll_found(&busy_poll, (int)first);
		else if (sscanf(line, "slept %" SCNd64, &now) == 1)
			ipc_busy_poll_slept(&busy_poll, now);
		else if (sscanf(line, "from %u %u", &first, &second) == 2) {
			busy_poll.client = first;
			busy_poll.taken = second;
		} else
			ipc_busy_poll_missed(&busy_poll);
		printf("%s %u %u\n", decision, busy_poll.skip, busy_poll.misses);
	}
	return 0;
}
