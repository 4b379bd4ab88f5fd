"""One process of a function in the rig."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from local import postgres, processes, services
from tests.support import servers
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from local.processes import Child
    from saldo.serve.functions import Function
    from tests.reliability.faults.rig import Rig

STOP_TIMEOUT_S = 120.0


class Replica:
    """One process of a function, with its own proxies to both databases."""

    def __init__(self, rig: Rig, function: Function, number: int) -> None:
        self.function = function
        self.port = processes.free_port()
        self.store = Proxy(rig.store.socket, postgres=True)
        self.model = Proxy(rig.model.socket, postgres=True)
        self.child: Child | None = None
        self._rig = rig
        self._log = rig.folder / f"{function.name}-{number}.log"

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def running(self) -> Child:
        """Its process, which must have been started."""
        assert self.child is not None
        return self.child

    async def start(self, **settings: str) -> None:
        """Start the process and wait until it answers; with CLOCK_FILE, on a clock that is set."""
        env = services.environ(
            self.function.role,
            lambda role: self._dsn(self.store, role),
            hash_secret=servers.HASH_SECRET,
            bootstrap_servers=self._rig.bootstrap_servers,
            overrides={
                "READ_MODEL_URL": self._dsn(self.model, self.function.role),
                "KAFKA_TOPIC": self._rig.topic,
                **settings,
            },
        )
        module = "tests.reliability.faults.clocked" if "CLOCK_FILE" in settings else "saldo.serve"
        self.child = processes.start(
            self.function.name,
            [sys.executable, "-m", module, "--function", self.function.name]
            + ["--host", "127.0.0.1", "--port", str(self.port)],
            log=self._log,
            cwd=services.ROOT,
            env=env,
        )
        await asyncio.to_thread(services.wait_until_ready, self.child, self.port)

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        await asyncio.to_thread(self.running.kill)

    async def terminate(self) -> None:
        """Send SIGTERM and wait for an orderly end."""
        self.running.process.terminate()
        status = await asyncio.to_thread(self.running.process.wait, STOP_TIMEOUT_S)
        assert status in {0, -signal.SIGTERM}, self.running.last_words()

    def pause(self) -> None:
        """Stop it with SIGSTOP."""
        self.running.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it with SIGCONT."""
        self.running.process.send_signal(signal.SIGCONT)

    def _dsn(self, proxy: Proxy, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{proxy.port}/{postgres.DATABASE}?sslmode=disable"
