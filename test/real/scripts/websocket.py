import asyncio
import sys

import websockets


async def main() -> None:
    async with websockets.connect(sys.argv[1]) as socket:
        for word in ("one", "two"):
            await socket.send(word)
            print(await socket.recv())


asyncio.run(main())
