"""Examples under way, as a newcomer runs them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployment import Deployment, wait_for
from models import Models

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """An example under way, with all that it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.printed = process, ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while letter := self.process.stdout.read(1):
            self.printed += letter

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.printed.count(text) >= times or not self._reading.is_alive(), text)
        assert self.printed.count(text) >= times, self.printed


@contextmanager
def running(
    name: str, agent: str, model: str, deployment: Deployment, models: Models, *arguments: str
) -> Iterator[Example]:
    settings = {
        "TAGOUT_AGENT": agent,
        "MODEL": model,
        "OPENAI_BASE_URL": f"{models.url}/v1",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": models.url,
        "ANTHROPIC_API_KEY": "none",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "GOOGLE_GEMINI_BASE_URL": models.url,
        "GOOGLE_API_KEY": "none",
    }
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = deployment.python(code, str(EXAMPLES / name), "a story", *arguments, **settings)
    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield Example(process)
    finally:
        process.kill()
        process.wait()
