"""The local PingSource as a process, with a real sink."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[3]
DEADLINE_S = 120.0


async def test_every_sink_is_pinged_at_each_interval() -> None:
    """A sink that is down costs the others nothing."""
    heads: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        length = int(re.findall(r"Content-Length: (\d+)", head)[0])
        heads.put_nowait((head, await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sinks = [f"http://127.0.0.1:{port}/a", "http://127.0.0.1:1/", f"http://127.0.0.1:{port}/b"]
    options = [word for sink in sinks for word in ("--sink", sink)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local.knative.ping_source", "--interval", "PT0.2S", *options),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            pings = [await heads.get() for _ in range(4)]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.close()

    assert sorted(head.split(" ")[1] for head, _ in pings) == ["/a", "/a", "/b", "/b"]
    ids = set()
    for head, body in pings:
        assert json.loads(body) == {"sweep": True}
        headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        ids.add(uuid.UUID(headers["Ce-Id"]))
        assert headers["Ce-Type"] == "dev.knative.sources.ping"
        assert headers["Ce-Source"] == "/apis/v1/namespaces/default/pingsources/sweep"
        assert headers["Ce-Specversion"] == "1.0"
        assert headers["Content-Type"] == "application/json"
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+Z", headers["Ce-Time"])
    assert len(ids) == 4
