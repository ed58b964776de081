"""What people ask a service of HTTP with, one after the other."""

import asyncio
import sys

import aiohttp
import httpx
import openai
import requests

url = sys.argv[1]


async def main() -> None:
    async with aiohttp.ClientSession() as session, session.get(url + "/models") as answer:
        print("aiohttp", (await answer.json())["data"][0]["id"])
    async with httpx.AsyncClient() as client:
        print("httpx, async", (await client.get(url + "/models")).json()["data"][0]["id"])


with requests.Session() as session:
    print("requests", session.get(url + "/models", timeout=60).json()["data"][0]["id"])
print("httpx", httpx.get(url + "/models", timeout=60).json()["data"][0]["id"])
asyncio.run(main())
print("openai", openai.OpenAI(base_url=url, api_key="none").models.list().data[0].id)
