import concurrent.futures
import multiprocessing


def square(number: int) -> int:
    return number * number


def add(total: "multiprocessing.sharedctypes.Synchronized[int]", queue: "multiprocessing.Queue[str]") -> None:
    with total.get_lock():
        total.value += 1
    queue.put("added")


if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, range(4)))
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        print(list(executor.map(square, range(4))))
    total, queue = multiprocessing.Value("i", 0), multiprocessing.Queue()
    children = [multiprocessing.Process(target=add, args=(total, queue)) for _ in range(3)]
    for child in children:
        child.start()
    print(sorted(queue.get() for _ in children), total.value)
    for child in children:
        child.join()
    with multiprocessing.Manager() as manager:
        shared = manager.dict(one=1)
        print(dict(shared))
