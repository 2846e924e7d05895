"""Users of other providers: of all the world's only those who are listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import fastmcp
import httpx2
import pytest
from rmi_agent.server import load
from rmi_agent.server.auth import Tokens, build_provider
from rmi_agent.server.auth.external import GitHub, Google
from rmi_agent.server.auth.provider import CombinedProvider
from rmi_agent.server.errors import BadSettings

from tests.server.auth.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, issuing
from tests.server.auth.oauth import ALICE, BACK, URL, Browser, Page, Signing
from tests.server.conftest import fill

pytestmark = [pytest.mark.anyio, pytest.mark.security]
EVE = {"sub": "1", "email": "Eve@Example.com", "email_verified": True}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(autouse=True)
def fastmcps_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where FastMCP keeps its providers' tokens."""
    monkeypatch.setattr(fastmcp.settings, "home", tmp_path / "fastmcp")


def given(issuer: Issuer, **changed: Any) -> dict[str, Any]:
    return {
        "auth": "token+oidc",
        "oauth_client_id": CLIENT_ID,
        "oauth_client_secret": CLIENT_SECRET,
        "oauth_config_url": issuer.config_url,
        "oauth_users": "eve@example.com, subject-7",
        **changed,
    }


@pytest.fixture
async def signing(tmp_path: Path, issuer: Issuer) -> Signing:
    return Signing(fill(tmp_path), given(issuer))


async def through_the_issuer(browser: Browser, url: str) -> httpx2.Response:
    """From the client to FastMCP's page, to the issuer, and back to the client's address."""
    page = await browser.get(url, follow_redirects=True)
    assert page.status_code == 200, page.text
    form = Page(page.text)
    headers = {"Origin": URL}
    fields = {**form.fields, "action": "approve"}
    led = await browser.post(page.url.join(form.action), data=fields, headers=headers)
    async with httpx2.AsyncClient(trust_env=False) as outside:
        issued = await outside.get(led.headers["location"])
    return await browser.get(issued.headers["location"])


async def signed_in(signing: Signing) -> str:
    client = await signing.client()
    back = await through_the_issuer(signing.http, signing.asking(client))
    assert back.headers["location"].startswith(BACK)
    code = dict(parse_qsl(urlsplit(back.headers["location"]).query))["code"]
    minted = await signing.exchange(client, code)
    assert minted.status_code == 200, minted.text
    return str(minted.json()["access_token"])


@pytest.mark.parametrize(
    ("user", "principal"),
    [
        (EVE, "oidc:eve@example.com"),
        ({"sub": "subject-7"}, "oidc:subject-7"),
        ({**EVE, "sub": "subject-7"}, "oidc:eve@example.com"),
        ({**EVE, "email_verified": False}, None),
        ({"sub": "1", "email": "eve@example.com"}, None),
        ({**EVE, "email": "mallory@example.com"}, None),
        ({**EVE, "email": "eve@example.com.evil.com"}, None),
        ({"sub": "1", "preferred_username": "eve@example.com"}, None),
        ({"sub": "1"}, None),
    ],
    ids=str,
)
async def test_only_those_who_are_listed_and_verified_are_let_in(
    signing: Signing, issuer: Issuer, user: dict[str, Any], principal: str | None
) -> None:
    issuer.user = user
    token = await signed_in(signing)
    assert await signing.knows(token) == principal
    assert await signing.lets_in(token) == (principal is not None)


async def test_tokens_open_as_before_beside_another_provider(
    signing: Signing, issuer: Issuer
) -> None:
    assert await signing.knows(ALICE) == "alice"
    assert await signing.lets_in(ALICE)
    assert not await signing.lets_in("wrong-wrong-wrong-wrong")
    # The provider's own tokens are not ours.
    assert not await signing.lets_in("opaque-upstream-access-token")


async def test_who_is_taken_off_the_list_is_out_at_the_next_start(
    signing: Signing, issuer: Issuer
) -> None:
    issuer.user = EVE
    token = await signed_in(signing)
    signing.restart()
    assert await signing.knows(token) == "oidc:eve@example.com"
    signing.restart(oauth_users="somebody@example.com")
    assert await signing.knows(token) is None


async def test_its_clients_are_held_to_the_same_bounds(signing: Signing) -> None:
    for uri in ("http://client.example/back", "cursor://x/back", "https://a@client.example/back"):
        assert (await signing.register(uri)).status_code == 400
    made = await signing.register(client_name="n" * 5_000, contacts=["c" * 5_000])
    assert len(made.text) < 2_000
    for path in ("/sign-in", "/nothing-here"):
        assert (await signing.http.get(path)).status_code == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.com/back"},
        {"response_type": "token"},
        {"code_challenge": None},
        {"code_challenge_method": "plain"},
        {"resource": "https://other.example/mcp"},
        {"resource": URL + "/sse"},  # FastMCP's providers mint for one address
        {"client_id": "unknown"},
    ],
    ids=str,
)
async def test_a_wrong_request_leads_nowhere_here_either(
    signing: Signing, changed: dict[str, str | None]
) -> None:
    client = await signing.client()
    answer = await signing.http.get(signing.asking(client, **changed))
    assert answer.status_code == 400
    assert "This sign-in can't continue" in Page(answer.text).words


@pytest.mark.parametrize(("name", "kind"), [("github", GitHub), ("google", Google)])
def test_github_and_google_are_fastmcps_providers_with_a_list(name: str, kind: type) -> None:
    settings = load(
        auth=f"token+{name}",
        public_url=URL,
        oauth_client_id="id",
        oauth_client_secret="a-secret-of-theirs",
        oauth_users="Eve,eve@example.com",
    )
    made = build_provider(settings, Tokens({"alice": ALICE}))
    assert isinstance(made, CombinedProvider)
    assert isinstance(made.server, kind)
    allowlist = made.server.allowlist  # type: ignore[union-attr]
    claims = {"login": "EVE", "email": "eve@example.com", "email_verified": True}
    assert (
        allowlist.principal(claims)
        == {
            "github": "github:eve",
            "google": "google:eve@example.com",
        }[name]
    )
    assert allowlist.principal({"login": "mallory", "email": "mallory@example.com"}) is None
    assert allowlist.principal({}) is None


@pytest.mark.parametrize(
    ("changed", "variable"),
    [
        ({"oauth_users": ""}, "RMI_AGENT_OAUTH_USERS"),
        ({"oauth_users": " , "}, "RMI_AGENT_OAUTH_USERS"),
        ({"oauth_client_id": None}, "RMI_AGENT_OAUTH_CLIENT_ID"),
        ({"oauth_client_secret": ""}, "RMI_AGENT_OAUTH_CLIENT_SECRET"),
        ({"oauth_config_url": None}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"oauth_config_url": "http://issuer.example/x"}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"oauth_config_url": "file:///etc/passwd"}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"oauth_config_url": "http://127.0.0.1:1/x"}, "RMI_AGENT_OAUTH_CONFIG_URL"),
        ({"auth": "token+github", "oauth_users": ""}, "RMI_AGENT_OAUTH_USERS"),
        ({"auth": "token+google", "oauth_client_secret": None}, "RMI_AGENT_OAUTH_CLIENT_SECRET"),
        ({"public_url": None}, "RMI_AGENT_PUBLIC_URL"),
        ({"public_url": "http://python.example"}, "RMI_AGENT_PUBLIC_URL"),
    ],
    ids=str,
)
def test_what_is_missing_is_one_line(
    issuer: Issuer, changed: dict[str, Any], variable: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(**{"public_url": URL, **given(issuer), **changed})
    with pytest.raises(BadSettings) as raised:
        build_provider(settings, Tokens({"alice": ALICE}))
    assert str(raised.value).startswith(f"{variable}: ")
    assert "\n" not in str(raised.value)
    assert CLIENT_SECRET not in str(raised.value)
    assert caplog.text == ""
