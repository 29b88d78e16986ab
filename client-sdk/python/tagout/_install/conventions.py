"""What OpenTelemetry's conventions call a model call: its operation, its provider, its model.

Names and values are those of the GenAI semantic conventions v0.1.0 (https://github.com/open-telemetry/semantic-conventions-genai).
"""

from __future__ import annotations

import re
from urllib.parse import unquote

# By the end of the path; the first that matches.
_OPERATIONS = (
    (re.compile(r"/embed(dings)?$|:(batch)?[eE]mbedContents?$"), "embeddings"),
    (re.compile(r":(stream)?[gG]enerateContent$"), "generate_content"),
    (re.compile(r"/chat(/completions)?$|/messages$|/responses$|/converse(-stream)?$|:(stream)?[rR]awPredict$"), "chat"),
    (re.compile(r"/completions$|/complete$|/api/generate$"), "text_completion"),
)
_OTHER = "other"

# By how the host ends, with a dot before it.
_PROVIDERS = {
    ".api.openai.com": "openai",
    ".openai.azure.com": "azure.ai.openai",
    ".ai.azure.com": "azure.ai.inference",
    ".api.anthropic.com": "anthropic",
    ".amazonaws.com": "aws.bedrock",
    ".amazonaws.com.cn": "aws.bedrock",
    ".generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    ".mistral.ai": "mistral_ai",
    ".cohere.com": "cohere",
    ".cohere.ai": "cohere",
    ".api.groq.com": "groq",
    ".api.x.ai": "x_ai",
    ".api.deepseek.com": "deepseek",
    ".api.perplexity.ai": "perplexity",
    ".api.moonshot.ai": "moonshot_ai",
}
# Of other hosts it says whose protocol they speak.
_PROTOCOLS = (
    (re.compile(r"/v\d+/messages(/|$)"), "anthropic"),
    (re.compile(r"/api/(generate|chat|embed|embeddings)$"), "ollama"),
    (re.compile(r"/model/[^/]+/(invoke|converse)"), "aws.bedrock"),
    (re.compile(r":\w+$"), "gcp.gen_ai"),
    (re.compile(r"/(completions|responses|embeddings|moderations|images|audio)(/|$)"), "openai"),
)
_MODEL = re.compile(r"/(?:deployments|models?)/([^/:]+(?::[^/:]+(?=/))?)")


def operation(path: str) -> str:
    return next((name for pattern, name in _OPERATIONS if pattern.search(path)), _OTHER)


def provider(host: str, path: str) -> str:
    host = f".{host.lower().rstrip('.')}"
    for end, name in _PROVIDERS.items():
        if host.endswith(end):
            return name
    return next((name for pattern, name in _PROTOCOLS if pattern.search(path)), _OTHER)


def model(path: str) -> str | None:
    """The model, where the path names it and not the body."""
    found = _MODEL.search(path)
    return None if found is None else unquote(found[1])
