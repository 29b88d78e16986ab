from __future__ import annotations

from google.adk.models import Gemini, LlmRequest
from google.genai import Client, types

from rows import Calls, blocking


class _Local(Gemini):
    url: str

    @property
    def api_client(self) -> Client:
        return Client(api_key="none", http_options=types.HttpOptions(base_url=self.url))


def calls(url: str) -> Calls:
    async def ask(model: str, streams: bool = False) -> object:
        asked = LlmRequest(model=model, contents=[types.Content(role="user", parts=[types.Part(text="hello")])])
        return [answer async for answer in _Local(model=model, url=url).generate_content_async(asked, streams)]

    return {"async": blocking(ask), "async stream": blocking(lambda model: ask(model, True))}
