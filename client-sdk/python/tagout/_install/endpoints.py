"""Which requests are model calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

Predicate = Callable[[str, int, str], bool]

# Hosts that serve models, each with where its vendor says so. One that begins with a dot stands for all below it.
HOSTS = {
    "api.openai.com": "https://platform.openai.com/docs/api-reference",
    "eu.api.openai.com": "https://platform.openai.com/docs/guides/your-data",
    "us.api.openai.com": "https://platform.openai.com/docs/guides/your-data",
    ".openai.azure.com": "https://learn.microsoft.com/azure/ai-services/openai/reference",
    ".services.ai.azure.com": "https://learn.microsoft.com/azure/ai-foundry/model-inference/reference/reference-model-inference-api",
    ".inference.ai.azure.com": "https://learn.microsoft.com/azure/ai-foundry/how-to/deploy-models-serverless",
    "models.github.ai": "https://docs.github.com/rest/models/inference",
    "api.anthropic.com": "https://docs.anthropic.com/en/api/overview",
    "generativelanguage.googleapis.com": "https://ai.google.dev/api",
    "aiplatform.googleapis.com": "https://cloud.google.com/vertex-ai/docs/reference/rest",
    "api.mistral.ai": "https://docs.mistral.ai/api/",
    "codestral.mistral.ai": "https://docs.mistral.ai/api/",
    "api.cohere.com": "https://docs.cohere.com/reference/about",
    "api.cohere.ai": "https://docs.cohere.com/reference/about",
    "api.groq.com": "https://console.groq.com/docs/api-reference",
    "api.x.ai": "https://docs.x.ai/docs/api-reference",
    "api.deepseek.com": "https://api-docs.deepseek.com/",
    "api.together.xyz": "https://docs.together.ai/reference",
    "api.together.ai": "https://docs.together.ai/reference",
    "api.fireworks.ai": "https://docs.fireworks.ai/api-reference",
    "api.perplexity.ai": "https://docs.perplexity.ai/api-reference",
    "api.cerebras.ai": "https://inference-docs.cerebras.ai/api-reference",
    "api.sambanova.ai": "https://docs.sambanova.ai/",
    "api.ai21.com": "https://docs.ai21.com/reference",
    "api.moonshot.ai": "https://platform.moonshot.ai/docs",
    "api.replicate.com": "https://replicate.com/docs/reference/http",
    "openrouter.ai": "https://openrouter.ai/docs/api-reference/overview",
    "integrate.api.nvidia.com": "https://docs.api.nvidia.com/nim/reference",
    "router.huggingface.co": "https://huggingface.co/docs/inference-providers",
    "api-inference.huggingface.co": "https://huggingface.co/docs/api-inference",
    ".endpoints.huggingface.cloud": "https://huggingface.co/docs/inference-endpoints",
    "dashscope.aliyuncs.com": "https://www.alibabacloud.com/help/en/model-studio",
    "dashscope-intl.aliyuncs.com": "https://www.alibabacloud.com/help/en/model-studio",
}

# Hosts with a region in their names.
HOST_PATTERNS = (
    # https://docs.aws.amazon.com/general/latest/gr/bedrock.html
    r"bedrock-(agent-)?runtime(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?",
    # https://cloud.google.com/vertex-ai/docs/general/locations
    r"[a-z0-9-]+-aiplatform\.googleapis\.com",
)

# What model servers of any host are asked by: whole segments, with or without more after them.
PATHS = (
    r"/(chat/)?completions",  # OpenAI and all that are compatible with it
    r"/v\d+/(responses|embeddings|moderations|images/\w+|audio/\w+|complete|rerank|score)",
    r"/openai/(v\d+/)?(deployments/[^/]+/)?(responses|embeddings|images/\w+|audio/\w+)",  # Azure
    r"^/(responses|embeddings)",  # the same of a proxy that takes them without a version
    r"/v\d+/messages",  # Anthropic
    r"/api/(generate|chat|embed|embeddings)",  # Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md
    r"/model/[^/]+/(invoke|invoke-with-response-stream|converse|converse-stream)",  # Bedrock behind a proxy
)
# Google's methods stand after a colon.
METHODS = r":(stream)?(generateContent|GenerateContent|rawPredict|RawPredict)|:(batch)?[eE]mbedContents?|:(stream)?[pP]redict"

_PATHS = re.compile(rf"(?:{'|'.join(PATHS)})(?:/|$)|(?:{METHODS})$")
_HOSTS = re.compile("|".join(HOST_PATTERNS))


@dataclass(frozen=True)
class Endpoints:
    """What is a model call by `install()`'s arguments. Tagout's own nodes are none, whatever these say."""

    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    predicate: Predicate | None = None
    nodes: tuple[str, ...] = ()

    def match(self, host: str, port: int, target: str) -> bool:
        host, path = host.lower().rstrip("."), target.partition("?")[0]
        if (host, port) in self._own:
            return False
        if self.predicate is not None:
            return self.predicate(host, port, path)
        return self._is_host(host, port) or _PATHS.search(path) is not None or self._is_path(path)

    def _is_host(self, host: str, port: int) -> bool:
        above = (host[at:] for at, letter in enumerate(host) if letter == ".")
        shown = f"[{host}]" if ":" in host else host  # IPv6, as URLs have it
        names = {host, shown, f"{shown}:{port}", *above}
        return not names.isdisjoint(HOSTS) or _HOSTS.fullmatch(host) is not None or not names.isdisjoint(self._hosts)

    def _is_path(self, path: str) -> bool:
        return any(pattern.search(path) for pattern in self._paths)

    @cached_property
    def _hosts(self) -> frozenset[str]:
        return frozenset(host.lower() for host in self.hosts)

    @cached_property
    def _paths(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(path) for path in self.paths)

    @cached_property
    def _own(self) -> frozenset[tuple[str, int]]:
        urls = map(urlsplit, self.nodes)
        return frozenset((url.hostname or "", url.port or 443) for url in urls)
