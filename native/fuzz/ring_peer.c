/*
 * One end of a ring in C, for the tests that pair languages:  ring-peer PATH produce|consume SEED FRAMES
 * and both ends in two threads, for ThreadSanitizer:          ring-peer threads SEED FRAMES
 * Frames are of random lengths and bytes; each side prints a checksum of what it saw.
 */
#include "../ring/ring.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CAPACITY 4096u
#define SIZE (256 + CAPACITY)
#define LONGEST 1200u

struct end {
	struct ipc_ring ring;
	uint32_t seed, frames, sum;
};

/* The same in all three languages: a linear congruential generator and FNV-1a. */
static uint32_t next(uint32_t *state)
{
	return *state = *state * 1664525u + 1013904223u;
}

static void hash(uint32_t *sum, const unsigned char *bytes, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		*sum = (*sum ^ bytes[i]) * 16777619u;
	*sum = (*sum ^ size) * 16777619u;
}

static void *produce(void *argument)
{
	struct end *end = argument;
	unsigned char frame[LONGEST];
	uint32_t state = end->seed;
	for (uint32_t i = 0; i < end->frames; i++) {
		uint32_t size = (next(&state) >> 8) % LONGEST;
		for (uint32_t at = 0; at < size; at++)
			frame[at] = (unsigned char)(next(&state) >> 24);
		hash(&end->sum, frame, size);
		int sent;
		while ((sent = ipc_ring_send(&end->ring, frame, size)) == IPC_RING_NOTHING)
			sched_yield();
		if (sent < 0)
			exit(1);
		ipc_ring_needs_bell(&end->ring);
	}
	return NULL;
}

static void *consume(void *argument)
{
	struct end *end = argument;
	unsigned char frame[CAPACITY];
	for (uint32_t i = 0; i < end->frames;) {
		uint32_t size;
		int found = ipc_ring_peek(&end->ring, &size);
		if (found < 0)
			exit(1);
		if (found == IPC_RING_NOTHING) {
			if (ipc_ring_prepare_sleep(&end->ring) == IPC_RING_OK)
				sched_yield();
			ipc_ring_cancel_sleep(&end->ring);
			continue;
		}
		ipc_ring_copy(&end->ring, size, frame);
		ipc_ring_advance(&end->ring, size);
		hash(&end->sum, frame, size);
		i++;
	}
	return NULL;
}

static struct end open_end(void *memory, int is_producer, const char *seed, const char *frames)
{
	struct end end = { .seed = (uint32_t)strtoul(seed, NULL, 10),
		.frames = (uint32_t)strtoul(frames, NULL, 10),
		.sum = 2166136261u };
	if (ipc_ring_open(&end.ring, memory, SIZE, 0, 256, CAPACITY, 0, is_producer) != NULL)
		exit(2);
	return end;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "threads") == 0) {
		static _Alignas(64) unsigned char memory[SIZE];
		struct end ends[2] = { open_end(memory, 1, argv[2], argv[3]), open_end(memory, 0, argv[2], argv[3]) };
		pthread_t threads[2];
		pthread_create(&threads[0], NULL, produce, &ends[0]);
		pthread_create(&threads[1], NULL, consume, &ends[1]);
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
		printf("%u\n", ends[1].sum);
		return ends[0].sum == ends[1].sum ? 0 : 1;
	}
	if (argc != 5)
		return 2;
	int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return 2;
	int is_producer = strcmp(argv[2], "produce") == 0;
	struct end end = open_end(memory, is_producer, argv[3], argv[4]);
	(is_producer ? produce : consume)(&end);
	printf("%u\n", end.sum);
	return 0;
}
