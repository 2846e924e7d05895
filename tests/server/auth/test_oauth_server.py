"""What is tried against sign-ins: each a case, and what must come of it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from rmi_agent.server.auth import authorization_codes, oauth_store
from rmi_agent.server.auth import sign_in as signin
from rmi_agent.server.auth import throttle as guesses
from starlette.requests import Request

from tests.server.auth.oauth import ALICE, BACK, BOB, URL, USERS, Page, Signing
from tests.server.conftest import fill
from tests.server.served import served

pytestmark = [pytest.mark.anyio, pytest.mark.security]


def answered(leads_to: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(leads_to).query))


async def opened(signing: Signing, **changed: Any) -> httpx2.Response:
    """The sign-in page, in the browser of the person."""
    client = await signing.client()
    page = await signing.http.get(signing.asking(client, **changed), follow_redirects=True)
    assert page.status_code == 200, page.text
    return page


def shown(page: httpx2.Response, status: int = 400) -> str:
    """The words of a page that leads nowhere."""
    assert page.status_code == status
    assert "location" not in page.headers
    read = Page(page.text)
    assert not read.leads_to
    assert "a" not in read.tags
    return read.words


# -- open redirects


@pytest.mark.parametrize(
    "uri",
    [
        "http://client.example/back",
        "http://127.0.0.1.evil.com/back",
        "http://localhost.evil.com/back",
        "http://evil.com#127.0.0.1",
        "http://127.0.0.1@evil.com/back",
        "http://10.0.0.1/back",
        "http://0.0.0.0/back",
        "http://[::ffff:1.2.3.4]/back",
        "https://user@client.example/back",
        "https://user:word@client.example/back",
        "https://client.example/back#fragment",
        "https://client.example/back#",
        "https://client.example/" + "x" * 600,
        "javascript:alert(1)",
        "JavaScript:alert(1)//https://client.example",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:msgbox(1)",
        "file:///etc/passwd",
        "ftp://client.example/back",
        "com.example.app:/back",
        "cursor://anysphere.cursor/back",
        "urn:ietf:wg:oauth:2.0:oob",
        "//evil.com/back",
        "/back",
        "",
    ],
)
async def test_an_address_that_is_not_safe_to_lead_to_is_not_registered(
    reading: Signing, uri: str
) -> None:
    before = reading.clients()
    answer = await reading.register(uri)
    assert answer.status_code == 400
    assert answer.json()["error"] in ("invalid_redirect_uri", "invalid_client_metadata")
    assert reading.clients() == before


@pytest.mark.parametrize(
    "uri",
    [
        "https://claude.ai/api/mcp/auth_callback",
        "https://chatgpt.com/connector_platform_oauth_redirect",
        "https://client.example:8443/back?tenant=1",
        "http://127.0.0.1:3334/oauth/callback",
        "http://localhost:6274/back",
        "http://[::1]:6274/back",
    ],
)
async def test_https_and_loopback_addresses_are_registered_and_led_to(
    signing: Signing, uri: str
) -> None:
    client = await signing.client(uri)
    leads_to = await signing.http.sign_in(signing.asking(client, redirect_uri=uri), ALICE)
    assert leads_to.startswith(uri)
    given = answered(leads_to)
    assert given["state"] == "the-state"
    answer = await signing.exchange(client, given["code"], redirect_uri=uri)
    assert await signing.knows(answer.json()["access_token"]) == "alice"


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.com/back",
        "https://client.example",
        "https://client.example/",
        "https://client.example/back/",
        "https://client.example/backdoor",
        "https://client.example/back/../evil",
        "https://client.example/back%2f..%2fevil",
        "https://client.example/back?next=https://evil.com",
        "https://client.example/back#x",
        "https://client.example:444/back",
        "http://client.example/back",
        "https://client.example.evil.com/back",
        "https://client.example@evil.com/back",
        "https://evil.com\\@client.example/back",
        "https://evil.com/https://client.example/back",
        "https://CLIENT.example/Back",
        "//client.example/back",
        "/back",
        "javascript:alert(1)",
        "https://client.example/back https://evil.com",
        "",
    ],
)
async def test_only_the_registered_address_is_led_to(reading: Signing, uri: str) -> None:
    client = await reading.client()
    shown(await reading.http.get(reading.asking(client, redirect_uri=uri)))


@pytest.mark.parametrize(
    "changed",
    [
        {"response_type": "token"},
        {"response_type": None},
        {"code_challenge": None},
        {"code_challenge": "short"},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "none"},
        {"resource": "https://other.example/mcp"},
        {"resource": URL + "/mcp/other"},
        {"resource": URL + ".evil.com/mcp"},
        {"state": "x" * 3000},
        {"scope": "x" * 3000},
        {"client_id": "unknown"},
        {"client_id": None},
    ],
    ids=str,
)
async def test_a_wrong_request_is_told_on_a_page_and_leads_nowhere(
    reading: Signing, changed: dict[str, str | None]
) -> None:
    # Clients register themselves: to redirect errors would lead whoever follows a link to
    # any address that somebody has registered.
    client = await reading.client()
    shown(await reading.http.get(reading.asking(client, **changed)))


@pytest.mark.parametrize(
    ("uri", "led"),
    [
        ("http://127.0.0.1:4000/back", True),
        ("http://127.0.0.1/back", True),
        ("http://127.0.0.1:4000/other", False),
        ("http://127.0.0.1:4000/back?x=1", False),
        ("http://localhost:4000/back", False),
        ("http://127.0.0.2:4000/back", False),
        ("https://127.0.0.1:4000/back", False),
        ("http://127.0.0.1@evil.com:4000/back", False),
        ("http://127.0.0.1.evil.com:4000/back", False),
        ("http://127.0.0.1:4000@evil.com/back", False),
    ],
)
async def test_of_a_loopback_address_only_the_port_may_vary(
    reading: Signing, uri: str, led: bool
) -> None:
    client = await reading.client("http://127.0.0.1:3334/back")
    asked = await reading.http.get(reading.asking(client, redirect_uri=uri))
    assert asked.status_code == (302 if led else 400)


async def test_an_address_may_be_left_out_only_where_there_is_one(signing: Signing) -> None:
    one, two = await signing.client(), await signing.client(BACK, BACK + "/2")
    code = await signing.code(one, ALICE, redirect_uri=None)
    assert (await signing.exchange(one, code, redirect_uri=None)).status_code == 200
    shown(await signing.http.get(signing.asking(two, redirect_uri=None)))


# -- codes


async def test_a_code_that_is_used_again_ends_what_it_had_been_used_for(signing: Signing) -> None:
    client = await signing.client()
    code = await signing.code(client, ALICE)
    first = (await signing.exchange(client, code)).json()
    assert await signing.knows(first["access_token"]) == "alice"
    again = await signing.exchange(client, code)
    assert again.status_code == 401
    assert again.json()["error"] == "invalid_grant"
    assert await signing.knows(first["access_token"]) is None
    assert (await signing.refresh(client, first["refresh_token"])).status_code == 401


async def test_a_code_that_is_used_again_after_a_restart_ends_it_too(signing: Signing) -> None:
    client = await signing.client()
    code = await signing.code(client, ALICE)
    first = (await signing.exchange(client, code)).json()
    signing.restart()
    assert await signing.knows(first["access_token"]) == "alice"
    assert (await signing.exchange(client, code)).status_code == 401
    assert await signing.knows(first["access_token"]) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.com/back"},
        {"redirect_uri": BACK + "/"},
        {"redirect_uri": None},
        {"code_verifier": "x" * 64},
        {"code_verifier": ""},
        {"code_verifier": None},
        {"code": "x" * 43},
        {"code": ""},
        {"code": "x" * 60_000},
        {"client_id": "unknown"},
        {"grant_type": "client_credentials"},
        {"grant_type": "password"},
    ],
    ids=str,
)
async def test_a_code_is_worth_nothing_with_anything_else(
    signing: Signing, changed: dict[str, str | None]
) -> None:
    client = await signing.client()
    code = await signing.code(client, ALICE)
    answer = await signing.exchange(client, code, **changed)
    assert answer.status_code in (400, 401)
    assert "access_token" not in answer.text
    assert signing.sign_ins() == {}


async def test_the_challenge_itself_is_no_verifier(signing: Signing) -> None:
    client = await signing.client()
    code = await signing.code(client, ALICE)
    answer = await signing.exchange(client, code, code_verifier=signing.challenge)
    assert answer.status_code == 401


async def test_a_code_is_worth_nothing_to_another_client(signing: Signing) -> None:
    mine, other = await signing.client(), await signing.client()
    code = await signing.code(mine, ALICE)
    assert (await signing.exchange(other, code)).status_code == 401
    assert (await signing.exchange(mine, code)).status_code == 200


async def test_a_code_expires(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization_codes, "CODE_SECONDS", -1.0)
    client = await signing.client()
    answer = await signing.exchange(client, await signing.code(client, ALICE))
    assert answer.status_code == 401
    assert signing.sign_ins() == {}


# -- mix-ups and foreign resources


async def test_every_answer_says_whose_it_is(signing: Signing) -> None:
    known = (await signing.http.get("/.well-known/oauth-authorization-server")).json()
    assert known["authorization_response_iss_parameter_supported"] is True
    assert known["code_challenge_methods_supported"] == ["S256"]
    uri = BACK + "?iss=https://evil.com"  # the client's own must not stand for ours
    client = await signing.client(uri)
    for answer in ("allow", "deny"):
        leads_to = await signing.http.sign_in(
            signing.asking(client, redirect_uri=uri), ALICE, answer
        )
        issuers = [v for name, v in parse_qsl(urlsplit(leads_to).query) if name == "iss"]
        assert issuers == [known["issuer"]]


@pytest.mark.parametrize(
    "resource",
    [None, URL, URL + "/", URL + "/mcp", URL + "/mcp/", URL + "/sse", URL + "/mcp?kb_name=x"],
)
async def test_our_own_addresses_are_one_resource(signing: Signing, resource: str | None) -> None:
    client = await signing.client()
    code = await signing.code(client, ALICE, resource=resource)
    minted = (await signing.exchange(client, code)).json()
    assert await signing.knows(minted["access_token"]) == "alice"


async def test_a_token_for_another_server_is_refused(signing: Signing) -> None:
    client, minted = await signing.signed_in(ALICE)
    signing.restart(public_url="https://other.example")
    assert await signing.knows(minted["access_token"]) is None
    assert (await signing.refresh(client, minted["refresh_token"])).status_code == 401
    signing.restart()
    assert await signing.knows(minted["access_token"]) == "alice"


# -- cross-site requests


async def test_the_answer_of_another_browser_is_refused(signing: Signing) -> None:
    page = await opened(signing)
    async with signing.browser() as empty:
        shown(await empty.answer(page, ALICE))
    async with signing.browser() as other:  # with a cookie of its own
        client = await signing.client()
        await other.get(signing.asking(client), follow_redirects=True)
        shown(await other.answer(page, ALICE))
        shown(await other.get(page.url))
    assert Page((await signing.http.answer(page, ALICE)).text).leads_to


@pytest.mark.parametrize("csrf", ["", "x", "\udcff"])
async def test_an_answer_without_the_forms_token_is_refused(signing: Signing, csrf: str) -> None:
    page = await opened(signing)
    given = csrf.encode("utf-8", "surrogateescape").decode("latin-1")
    shown(await signing.http.answer(page, ALICE, csrf=given))


async def test_an_answer_with_another_forms_token_is_refused(signing: Signing) -> None:
    one, two = await opened(signing), await opened(signing)
    shown(await signing.http.answer(one, ALICE, csrf=Page(two.text).fields["csrf"]))


async def test_two_tabs_of_a_browser_can_sign_in_side_by_side(signing: Signing) -> None:
    one, two = await opened(signing), await opened(signing)
    for page in (one, two):
        assert "code" in answered(Page((await signing.http.answer(page, ALICE)).text).leads_to)


@pytest.mark.parametrize("origin", ["https://evil.com", "null", "https://python.example.evil.com"])
async def test_a_form_of_another_site_is_refused(signing: Signing, origin: str) -> None:
    page = await opened(signing)
    fields = {**Page(page.text).fields, "token": ALICE, "answer": "allow"}
    answer = await signing.http.post("/sign-in", data=fields, headers={"Origin": origin})
    assert answer.status_code == 403


async def test_a_sign_in_is_answered_once(signing: Signing) -> None:
    page = await opened(signing)
    assert Page((await signing.http.answer(page, ALICE)).text).leads_to
    shown(await signing.http.answer(page, ALICE))
    denied = await opened(signing)
    leads_to = Page((await signing.http.answer(denied, "", "deny")).text).leads_to
    assert answered(leads_to)["error"] == "access_denied"
    shown(await signing.http.answer(denied, ALICE))
    assert signing.sign_ins() == {}


async def test_a_sign_in_expires(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    page = await opened(signing)
    later = time.monotonic() + signin.PENDING_SECONDS + 1
    monkeypatch.setattr(signin.time, "monotonic", lambda: later)
    shown(await signing.http.answer(page, ALICE))
    shown(await signing.http.get(page.url))


async def test_the_cookie_is_the_browsers_own_secret(signing: Signing) -> None:
    client = await signing.client()
    asked = await signing.http.get(signing.asking(client))
    cookie = asked.headers["set-cookie"].lower()
    assert cookie.startswith("__host-rmi-sign-in=")
    for attribute in ("httponly", "secure", "samesite=lax", "path=/"):
        assert attribute in cookie
    assert "domain" not in cookie
    # One that somebody else has planted is not taken.
    async with signing.browser() as planted:
        planted.cookies.set("__Host-rmi-sign-in", "known", domain="python.example")
        again = await planted.get(signing.asking(client))
        assert "known" not in again.headers["set-cookie"]


# -- guessing


async def test_wrong_tokens_end_a_sign_in_and_then_all_of_them_for_a_while(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(guesses.MAX_FAILURES // signin.TRIES):
        page = await opened(signing)
        for left in range(signin.TRIES, 0, -1):
            answer = await signing.http.answer(page, "wrong-wrong-wrong-wrong")
            assert answer.status_code == 403
            assert ("start again" in answer.text) == (left == 1)
        shown(await signing.http.answer(page, ALICE))
    page = await opened(signing)
    closed = await signing.http.answer(page, ALICE)
    assert closed.status_code == 429
    assert 0 < int(closed.headers["Retry-After"]) <= guesses.WINDOW
    assert "10 minutes" in closed.text
    # Who has a token and can send it as a header is not kept out by guessing.
    assert await signing.lets_in(ALICE)
    later = time.monotonic() + guesses.WINDOW + 1
    monkeypatch.setattr(guesses.time, "monotonic", lambda: later)
    assert Page((await signing.http.answer(await opened(signing), ALICE)).text).leads_to


async def test_wrong_tokens_shut_a_page_for_one_address_and_many_of_them_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(guesses, "FAILURE_DELAY", 0.0)
    monkeypatch.setattr(guesses.time, "monotonic", lambda: now)
    throttle = guesses.LoginThrottle()
    for _ in range(guesses.MAX_FAILURES):
        assert not throttle.retry_after("a")
        await throttle.failed("a")
    assert throttle.retry_after("a") == guesses.WINDOW
    assert not throttle.retry_after("b")
    now += 10
    for number in range(guesses.MAX_FAILURES_OF_ALL - guesses.MAX_FAILURES):
        assert not throttle.retry_after("b")
        await throttle.failed(str(number))
    assert throttle.retry_after("b") == guesses.WINDOW - 10
    now += guesses.WINDOW - 10
    assert not throttle.retry_after("a") and not throttle.retry_after("b")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("/run/a.sock", "/run/a.sock"),
        (None, ""),
    ],
)
def test_a_whole_network_of_ipv6_is_one_address(host: str | None, address: str) -> None:
    client = (host, 1) if host is not None else None
    assert guesses.client_address(Request({"type": "http", "client": client})) == address


async def test_a_stranger_elsewhere_does_not_shut_the_owner_out(tmp_path: Path) -> None:
    slow = "from rmi_agent.server.auth import throttle\nthrottle.FAILURE_DELAY = 0.0"
    (tmp_path / "p").mkdir()
    with served(fill(tmp_path / "p"), before=slow, RMI_AGENT_TOKENS=USERS) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:

            async def sign_in(token: str, *forwarded: str) -> int:
                headers = {"Origin": server.url, "X-Forwarded-For": ", ".join(forwarded)}
                form = {"token": token}
                return (await http.post("/review/sign-in", data=form, headers=headers)).status_code

            for number in range(
                guesses.MAX_FAILURES
            ):  # what a caller puts there itself does not count
                assert await sign_in("x", f"203.0.113.{number}", "198.51.100.1") == 403
            assert await sign_in(ALICE, "198.51.100.1") == 429
            assert await sign_in(ALICE, "198.51.100.2") == 303


async def test_a_wrong_token_takes_its_time(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "FAILURE_DELAY", 0.5)
    page, begun = await opened(signing), time.monotonic()
    await signing.http.answer(page, "wrong")
    assert time.monotonic() - begun >= 0.5


@pytest.mark.parametrize(
    "token", ["", " ", "wrong", ALICE[:-1], ALICE + "x", ALICE.upper(), "alice:" + ALICE, "\0" * 99]
)
async def test_only_a_token_opens(signing: Signing, token: str) -> None:
    assert (await signing.http.answer(await opened(signing), token)).status_code == 403


async def test_a_token_that_was_pasted_with_spaces_opens(signing: Signing) -> None:
    page = await signing.http.answer(await opened(signing), f" {ALICE}\n")
    assert Page(page.text).leads_to


# -- the page


MARKUP = "</code><script>alert(1)</script><img src=x onerror=alert(1)>\"'><a href=//evil.com>"


async def test_what_a_client_says_of_itself_stays_text(signing: Signing) -> None:
    uri = BACK + "?x=" + "'\"><script>alert(1)</script>"
    client = await signing.client(uri, client_name=MARKUP)
    page = await signing.http.get(
        signing.asking(client, redirect_uri=uri, state=MARKUP), follow_redirects=True
    )
    read = Page(page.text)
    assert MARKUP[:99] in read.words
    assert not {"script", "img", "a"} & set(read.tags)
    assert "<script" not in page.text
    led = await signing.http.answer(page, ALICE)
    assert "<script" not in led.text
    assert answered(Page(led.text).leads_to)["state"] == MARKUP


@pytest.mark.parametrize("name", ["client_id", "redirect_uri", "resource", "scope", "state"])
async def test_what_a_link_says_stays_text(signing: Signing, name: str) -> None:
    client = await signing.client()
    page = await signing.http.get(
        signing.asking(client, **{"response_type": "x", name: BACK + MARKUP})
    )
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert page.headers["content-type"].startswith("text/html")


async def test_the_page_names_the_client_and_where_it_leads(signing: Signing) -> None:
    client = await signing.client(client_name="Cl\u202eau\u0000de\u200b")  # turned round, hidden
    page = await signing.http.get(signing.asking(client), follow_redirects=True)
    words = Page(page.text).words
    assert "calls itself Claude" in words
    assert "Nobody has verified its name" in words
    assert "https://client.example" in words
    assert BACK in words


@pytest.mark.parametrize("begin", ["page", "failure", "wrong", "led"])
async def test_no_page_can_be_framed_kept_or_loaded_into(signing: Signing, begin: str) -> None:
    page = await opened(signing)
    if begin == "failure":
        page = await signing.http.get("/sign-in?request=x")
    elif begin == "wrong":
        page = await signing.http.answer(page, "wrong")
    elif begin == "led":
        page = await signing.http.answer(page, ALICE)
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"):
        assert part in policy
    assert "unsafe" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "same-origin"
    assert "access-control-allow-origin" not in page.headers


async def test_the_page_needs_no_script_and_has_labels(signing: Signing) -> None:
    page = await opened(signing)
    assert "<script" not in page.text
    assert 'for="token"' in page.text
    assert 'id="token"' in page.text
    assert 'lang="en"' in page.text
    assert "color-scheme: light dark" in page.text


# -- floods


async def test_a_flood_of_clients_is_slowed_and_forgotten_first(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_store, "CLIENTS", 5)
    stopped = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: stopped)
    kept, minted = await signing.signed_in(ALICE)
    waiting = await signing.client()
    statuses = [(await signing.register()).status_code for _ in range(40)]
    assert statuses == [201] * 28 + [429] * 12
    assert len(signing.clients()) == 5
    assert kept in signing.clients()
    assert waiting not in signing.clients()
    assert await signing.knows(minted["access_token"]) == "alice"
    # Other doors are open meanwhile.
    assert (await signing.refresh(kept, minted["refresh_token"])).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"redirect_uris": [f"https://client.example/{n}" for n in range(11)]},
        {"redirect_uris": []},
        {"redirect_uris": None},
        {"redirect_uris": BACK},
        {"redirect_uris": [BACK], "client_name": "x" * 70_000},
        {"redirect_uris": [BACK], "client_name": 7},
        {"redirect_uris": [BACK], "grant_types": ["implicit"]},
        {"redirect_uris": [BACK], "response_types": ["token"]},
        {"redirect_uris": [BACK], "jwks": {"a": "x" * 70_000}},
        {"redirect_uris": [BACK], "token_endpoint_auth_method": "private_key_jwt"},
        [],
        "x",
        None,
    ],
    ids=lambda body: str(body)[:60],
)
async def test_what_is_no_client_is_not_registered(signing: Signing, body: Any) -> None:
    answer = await signing.http.post("/register", json=body)
    assert answer.status_code in (400, 413)
    assert signing.clients() == {}


async def test_of_a_client_only_what_is_needed_is_kept(signing: Signing) -> None:
    answer = await signing.register(
        client_name="n" * 5_000, contacts=["c" * 5_000], token_endpoint_auth_method=None
    )
    assert answer.status_code == 201
    assert "client_secret" not in answer.json() or answer.json()["client_secret"] is None
    assert answer.json()["token_endpoint_auth_method"] == "none"
    [client] = signing.clients().values()
    assert len(str(client)) < 1_000 and "ccc" not in str(client)


async def test_sign_ins_that_wait_are_bounded(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stopped = await signing.client(), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: stopped)
    statuses = [(await signing.http.get(signing.asking(client))).status_code for _ in range(125)]
    assert statuses == [302] * 120 + [429] * 5
    # What gets through the door in ten minutes is less than what is kept.
    assert 120 * (signin.PENDING_SECONDS / 60 + 1) < signin.PENDING


# -- refresh, expiry, revocation


async def test_a_refresh_token_that_is_used_again_ends_its_sign_in(signing: Signing) -> None:
    client, first = await signing.signed_in(ALICE)
    second = (await signing.refresh(client, first["refresh_token"])).json()
    assert await signing.knows(second["access_token"]) == "alice"
    assert await signing.knows(first["access_token"]) is None
    assert (await signing.refresh(client, first["refresh_token"])).status_code == 401
    assert await signing.knows(second["access_token"]) is None
    assert (await signing.refresh(client, second["refresh_token"])).status_code == 401


async def test_a_refresh_token_is_worth_nothing_to_another_client(signing: Signing) -> None:
    client, minted = await signing.signed_in(ALICE)
    other = await signing.client()
    assert (await signing.refresh(other, minted["refresh_token"])).status_code == 401
    assert (await signing.refresh(client, minted["refresh_token"])).status_code == 200


@pytest.mark.parametrize("token", ["", ".", "x", "x.y", "." + "y" * 43, "x" * 60_000])
async def test_a_refresh_token_that_never_was_is_refused(signing: Signing, token: str) -> None:
    client, minted = await signing.signed_in(ALICE)
    assert (await signing.refresh(client, token)).status_code in (400, 401)
    assert await signing.knows(minted["access_token"]) == "alice"


async def test_an_access_token_lasts_an_hour_and_a_sign_in_thirty_days(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, minted = await signing.signed_in(ALICE)
    assert minted["expires_in"] == 3600
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun + 3601)
    assert not await signing.lets_in(minted["access_token"])
    again = (await signing.refresh(client, minted["refresh_token"])).json()
    assert await signing.lets_in(again["access_token"])
    # A refresh does not prolong what the person has agreed to.
    monkeypatch.setattr(time, "time", lambda: begun + 30 * 86400 + 1)
    assert not await signing.lets_in(again["access_token"])
    assert (await signing.refresh(client, again["refresh_token"])).status_code == 401


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_a_client_can_revoke_its_own_tokens_only(signing: Signing, kind: str) -> None:
    client, minted = await signing.signed_in(ALICE)
    other = await signing.client()
    form = {"token": minted[kind], "token_type_hint": kind}
    await signing.http.post("/revoke", data={**form, "client_id": other})
    assert await signing.lets_in(minted["access_token"])
    answer = await signing.http.post("/revoke", data={**form, "client_id": client})
    assert answer.status_code == 200
    assert not await signing.lets_in(minted["access_token"])
    assert (await signing.refresh(client, minted["refresh_token"])).status_code == 401


async def test_a_token_that_was_changed_ends_what_it_had_signed_in(signing: Signing) -> None:
    client, minted = await signing.signed_in(ALICE)
    _, bobs = await signing.signed_in(BOB)
    signing.restart(rmi_agent_tokens=f"alice:another-token-of-alice-1234,bob:{BOB}")
    assert await signing.knows(minted["access_token"]) is None
    assert (await signing.refresh(client, minted["refresh_token"])).status_code == 401
    assert await signing.knows(bobs["access_token"]) == "bob"
    signing.restart(rmi_agent_tokens=f"bob:{BOB}")
    assert await signing.knows(minted["access_token"]) is None


# -- where tokens may be, and may not


async def test_tokens_in_an_address_open_nothing(signing: Signing) -> None:
    _, minted = await signing.signed_in(ALICE)
    for token in (ALICE, minted["access_token"]):
        for query in ("access_token", "token", "Authorization"):
            for path in ("/mcp", "/sse", "/nothing-here"):
                answer = await signing.http.get(path, params={query: token})
                assert answer.status_code == 401
    page = await opened(signing)
    asked = {**Page(page.text).fields, "token": ALICE, "answer": "allow"}
    again = await signing.http.get("/sign-in", params=asked)
    assert not Page(again.text).leads_to
    assert ALICE not in again.text


async def test_codes_refresh_tokens_and_clients_open_nothing(signing: Signing) -> None:
    client, minted = await signing.signed_in(ALICE)
    code = await signing.code(client, ALICE)
    for token in (code, minted["refresh_token"], client, *signing.sign_ins()):
        assert not await signing.lets_in(token)


async def test_no_secret_is_in_the_store_or_the_log(
    signing: Signing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = await signing.client()
    page = await signing.http.get(signing.asking(client), follow_redirects=True)
    await signing.http.answer(page, "a-wrong-token-of-somebody")
    leads_to = Page((await signing.http.answer(page, ALICE)).text).leads_to
    code = answered(leads_to)["code"]
    first = (await signing.exchange(client, code)).json()
    second = (await signing.refresh(client, first["refresh_token"])).json()
    await signing.lets_in(second["access_token"])
    await signing.exchange(client, code, code_verifier="wrong")
    await signing.refresh(client, first["refresh_token"])
    kept = oauth_store.store_file().read_bytes()
    own = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    told = "\n".join(own)
    secrets = [ALICE, "a-wrong-token-of-somebody", code, signing.verifier]
    secrets += [
        minted[kind] for minted in (first, second) for kind in ("access_token", "refresh_token")
    ]
    secrets += [Page(page.text).fields["csrf"], *signing.http.cookies.values()]
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in told


# -- what is open


async def test_only_oauths_own_paths_are_open(signing: Signing) -> None:
    known = await signing.http.get("/.well-known/oauth-authorization-server")
    assert known.status_code == 200
    for path in ("mcp", "sse"):
        described = await signing.http.get(f"/.well-known/oauth-protected-resource/{path}")
        assert described.json()["resource"] == f"{URL}/{path}"
        locked = await signing.http.get(f"/{path}")
        assert locked.status_code == 401
        assert (
            f'resource_metadata="{URL}/.well-known/oauth-protected-resource/{path}"'
            in locked.headers["www-authenticate"]
        )
    for path in (
        "/",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server/mcp",
        "/.well-known/openid-configuration",
        "/.well-known/oauth-protected-resource/mcp/../../../mcp",
        "/sign-in/",
        "/sign-in/x",
        "//sign-in",
        "/SIGN-IN",
        "/token/",
        "/authorize/x",
        "/auth/callback",
        "/consent",
        "/messages/?session_id=00000000000000000000000000000000",
    ):
        assert (await signing.http.get(path)).status_code == 401, path


@pytest.mark.parametrize("host", ["evil.com", "python.example.evil.com", "x.python.example"])
async def test_sign_ins_are_for_our_own_name_only(signing: Signing, host: str) -> None:
    for path in ("/authorize", "/sign-in", "/token", "/.well-known/oauth-authorization-server"):
        answer = await signing.http.get(path, headers={"Host": host})
        assert answer.status_code == 421


async def test_a_registration_costs_little_whatever_it_says(signing: Signing) -> None:
    """Each value that was no grant type cost a line of the answer: 8 MB and 0.5 s for 60 kB."""
    given = {"redirect_uris": [BACK], "client_name": "Probe"}
    for name in ("grant_types", "redirect_uris", "contacts"):
        answer = await signing.http.post("/register", json={**given, name: [1] * 20_000})
        assert answer.status_code == 400
        assert len(answer.content) < 1_000
    contacts = [f"{number}@client.example" for number in range(50)]
    assert (await signing.register(contacts=contacts)).status_code == 201
