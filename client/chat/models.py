"""Chooses the language model and its API key, from names, the environment and `.env`.

Knows the providers and what their errors mean; nothing about tools or terminals. A key goes to
its provider's client and is never shown.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import httpx2
from pydantic import SecretStr
from pydantic_ai import exceptions
from pydantic_ai.models import Model
from pydantic_ai.profiles import ModelProfile
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..errors import NoModelError
from ..local_token import is_loopback

HERE = Path(__file__).resolve().parents[2]  # in a checkout, the server reads its `.env` too
ENV_FILES = (HERE / ".env", ".env") if (HERE / "pyproject.toml").is_file() else (".env",)
OPENAI = "https://api.openai.com/v1"
OLLAMA = "http://127.0.0.1:11434/v1"
KINDS = "openai:NAME, google:NAME, anthropic:NAME or ollama:NAME"
# The default model of each provider; without a name, the first provider with a key is used.
DEFAULTS = {
    "anthropic": "claude-sonnet-5-5",
    "openai": "gpt-6.1-terra",
    "google": "gemini-3.8-flash",
}
KEYS = {
    "openai": "OPENAI_API_KEY",
    "google": "GOOGLE_API_KEY (or GEMINI_API_KEY)",
    "anthropic": "ANTHROPIC_API_KEY",
}


class Keys(BaseSettings):
    """The chat's settings in the environment or `.env`; all are optional."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILES,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )
    openai_api_key: SecretStr | None = None
    google_api_key: SecretStr | None = None
    gemini_api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    ollama_base_url: str | None = None
    rmi_agent_model: str | None = None
    rmi_agent_chat_history: bool = True

    def of(self, kind: str) -> str | None:
        """The API key of a provider, or None."""
        key = {
            "openai": self.openai_api_key,
            "google": self.google_api_key or self.gemini_api_key,
            "anthropic": self.anthropic_api_key,
        }.get(kind)
        return key.get_secret_value().strip() or None if key is not None else None


def choose(name: str | None, base_url: str | None, pictures: bool, keys: Keys) -> Model:
    """Create the model for a name like `openai:NAME`.

    Args:
        name: defaults to RMI_AGENT_MODEL, or to the first provider that has a key.
        base_url: the API's URL, for servers that are not the provider's own.
        pictures: whether the model is given pictures.
        keys: the model settings from the environment.

    Raises:
        NoModelError: the name or the key is missing or invalid.
    """
    kind, model = parse_name(name or keys.rmi_agent_model, base_url, keys)
    if kind in ("google", "anthropic") and base_url and not is_confidential(base_url):
        raise NoModelError(
            f"{base_url}: your key would be sent there unencrypted. Use an https:// address, or one"
            " on this machine."
        )
    profile = None if pictures else ModelProfile(supports_image_input=False)
    if kind == "google":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        google = GoogleProvider(api_key=key_for(kind, keys), base_url=base_url)
        return GoogleModel(model, provider=google, profile=profile)
    if kind == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        anthropic = AnthropicProvider(api_key=key_for(kind, keys), base_url=base_url)
        return AnthropicModel(model, provider=anthropic, profile=profile)
    if kind == "ollama":
        from pydantic_ai.models.ollama import OllamaModel
        from pydantic_ai.providers.ollama import OllamaProvider

        at = base_url or keys.ollama_base_url or OLLAMA
        # Without a key, it would look for one in the environment.
        ollama = OllamaProvider(base_url=with_api_path(at), api_key="none")
        return OllamaModel(model, provider=ollama, profile=profile)
    return openai(model, base_url or keys.openai_base_url, profile, keys)


def full_name(name: str | None, base_url: str | None, keys: Keys) -> str:
    """The name of the model that `choose` creates, with its provider.

    Raises:
        NoModelError: as by `choose`.
    """
    return ":".join(parse_name(name or keys.rmi_agent_model, base_url, keys))


def openai(name: str, base_url: str | None, profile: ModelProfile | None, keys: Keys) -> Model:
    """A model of OpenAI's, or of any server that speaks its chat completions protocol."""
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    if base_url is None or base_url.rstrip("/") == OPENAI:
        own = OpenAIProvider(api_key=key_for("openai", keys), base_url=OPENAI)
        return OpenAIResponsesModel(name, provider=own, profile=profile)
    key = keys.of("openai")
    if not is_confidential(base_url):
        key = None  # it would be sent unencrypted
    url = with_api_path(base_url)
    other = OpenAICompatibleProvider("compatible", base_url=url, api_key=key or "none")
    return OpenAIChatModel(name, provider=other, profile=profile)


def parse_name(name: str | None, base_url: str | None, keys: Keys) -> tuple[str, str]:
    """Parse a name into provider and model.

    Raises:
        NoModelError: the name is missing or invalid, or a base URL is invalid.
    """
    for url in (base_url, keys.openai_base_url, keys.ollama_base_url):
        if url is not None and not url.startswith(("http://", "https://")):
            raise NoModelError(f"The base URL {url!r} is invalid; use http://HOST:PORT/v1.")
    if name is None:
        there = next((kind for kind in DEFAULTS if keys.of(kind)), None)
        if there is None or base_url is not None:
            raise NoModelError(
                f"No model is named: give --model {KINDS}, or set RMI_AGENT_MODEL"
                + ("." if base_url else ", or the key of one: " + ", ".join(KEYS.values()) + ".")
            )
        return there, DEFAULTS[there]
    kind, _, model = name.partition(":")
    kind = {"gemini": "google"}.get(kind, kind)
    if model and kind in (*KEYS, "ollama"):
        return kind, model
    if base_url is not None:  # the server's own name for it: `llama4:70b`
        return "openai", name
    raise NoModelError(f"--model {name}: use {KINDS}; with --base-url, any name works.")


def key_for(kind: str, keys: Keys) -> str:
    """The key of a provider.

    Raises:
        NoModelError: the key is not set.
    """
    if key := keys.of(kind):
        return key
    raise NoModelError(f"{KEYS[kind]} is not set: export it, or put it in .env.")


def is_confidential(url: str) -> bool:
    """Whether traffic to a URL can't be read on the way: it is https, or loopback."""
    return httpx2.URL(url).scheme == "https" or is_loopback(url)


def with_api_path(url: str) -> str:
    """Add OpenAI's usual path `/v1` to a server's address that has no path."""
    return f"{url.rstrip('/')}/v1" if httpx2.URL(url).path in ("", "/") else url


def hide_api_keys() -> None:
    """Stop this user's kernels from reading the keys in our environment (Linux)."""
    if sys.platform == "linux":
        dumpable = 4  # PR_SET_DUMPABLE of prctl(2)
        ctypes.CDLL(None).prctl(dumpable, 0, 0, 0, 0)


def explain_error(error: exceptions.AgentRunError, model: Model, keys: Keys) -> str:
    """Say in one line what went wrong with a model, and what to do."""
    where = model.base_url or model.system
    match error:
        case exceptions.ModelAuthenticationError():
            text = f"{where} refuses the key; check it, and its access to {model.model_name}"
        case exceptions.ModelQuotaExceededError():
            text = f"{where} reports that the account has no credit left"
        case exceptions.ModelRateLimitError():
            when = f"in {error.retry_after:.0f} s" if error.retry_after else "in a minute"
            text = f"{where} accepts no more requests for now; try again {when}"
        case exceptions.ModelNotFoundError():
            text = f"{where} does not know {model.model_name}; name another with --model"
        case exceptions.ModelContextWindowExceededError():
            text = "The conversation has grown too long for the model; /new starts another"
        case exceptions.ModelUnavailableError() | exceptions.ModelServerError():
            text = f"{where} can't answer just now; try again later"
        case exceptions.ModelConnectionError() | exceptions.ModelRequestTimeout():
            text = f"Can't reach {where}; check the network, and that the server is running"
        case exceptions.UsageLimitExceeded():
            text = "Stopped: the answer took too many model requests; say 'go on' to continue"
        case exceptions.ModelAPIError():
            text = f"{where} refuses the request: {detail(error)}"
        case _:
            text = f"The model's answer is invalid: {error.message}"
    for kind in KEYS:
        if key := keys.of(kind):
            text = text.replace(key, "…")
    return " ".join(text.split())[:500]


def detail(error: exceptions.ModelAPIError) -> str:
    """The provider's own error message, without the wrapping."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        return str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    return str(body or error.message)
