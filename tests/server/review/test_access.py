"""Who gets in, what they see, what they may hand on, and how browsers are held to it."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

import httpx2
import pytest
from rmi_agent.server.review import Index, ReviewAuth, access
from rmi_agent.server.serving.serve import offer_link

from tests.server.review.conftest import (
    ALICE,
    BOB,
    MINE,
    NAME,
    SECRET,
    code,
    data,
    png,
    visiting,
    write,
)

pytestmark = [pytest.mark.anyio, pytest.mark.security]


# -- who sees what


async def test_nobody_sees_anything_before_signing_in(folder: Path, session: Path) -> None:
    paths = ["/", f"/sessions/{NAME}", "/sessions/unknown", f"/sessions/{NAME}/live"]
    paths += [f"/sessions/{NAME}/{rest}" for rest in ("thumbnail", "output/2/0/picture")]
    paths += [f"/sessions/{NAME}/output/3/0/frame", f"/sessions/{NAME}/download/ipynb"]
    async with visiting(folder, None, whole=True) as http:
        for path in paths:
            answer = await http.get(path)
            assert answer.status_code == 401, path
            assert "Sign in" in answer.text and "hello" not in answer.text
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (
            await http.post(f"/sessions/{NAME}/share", data={"for": "1 day"})
        ).status_code == 401


@pytest.mark.parametrize(
    "rest", ["", "/live", "/thumbnail", "/output/1/0/frame", "/download/ipynb"]
)
async def test_anothers_session_reads_as_one_that_never_was(folder: Path, rest: str) -> None:
    write(folder, "bobs", code(SECRET, data("image/png", png())), principal="bob")
    async with visiting(folder) as http:
        assert SECRET not in (await http.get("/")).text
        assert "/sessions/bobs" not in (await http.get(f"/?q={SECRET}")).text
        own, unknown = await http.get(f"/sessions/bobs{rest}"), await http.get(f"/sessions/x{rest}")
        assert own.status_code == unknown.status_code == 404
        assert own.content == unknown.content
        shared = await http.post("/sessions/bobs/share", data={"for": "1 day"})
        assert shared.status_code == 404


@pytest.mark.parametrize(
    ("token", "seen"),
    [(ALICE, {"alice"}), (BOB, {"bob"}), (MINE, {"token", "local", "None"})],
    ids=["alice", "bob", "token"],
)
async def test_users_see_their_own_and_the_one_token_also_the_local_ones(
    folder: Path, token: str, seen: set[str]
) -> None:
    for principal in ("alice", "bob", "token", "local", None):
        write(folder, f"of-{principal}", code("x"), principal=principal)
    async with visiting(folder, token) as http:
        page = (await http.get("/")).text
    every = ("alice", "bob", "token", "local", "None")
    assert {name for name in every if f"/sessions/of-{name}" in page} == seen


async def test_without_tokens_the_local_user_is_let_in(folder: Path) -> None:
    write(folder, "mine", code("x"), principal="local")
    write(folder, "alices", code("x"))
    async with visiting(folder, None, whole=True, signed_in=False) as http:
        page = (await http.get("/")).text
        assert "/sessions/mine" in page and "alices" not in page and "Sign out" not in page


# -- signing in


async def test_the_cookie_is_no_token_and_only_for_the_browser(folder: Path) -> None:
    async with visiting(folder, None) as http:
        answer = await http.post("/review/sign-in", data={"token": f" {ALICE} ", "next": "/?q=x"})
        assert answer.headers["location"] == "/?q=x"
        cookie = answer.headers["set-cookie"]
        assert ALICE not in cookie
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
        assert "Secure" not in cookie and "Max-Age=2592000" in cookie
        assert (await http.get("/")).status_code == 200
        out = await http.post("/review/sign-out")
        assert out.status_code == 303
        assert (await http.get("/")).status_code == 401


async def test_over_https_the_cookie_is_bound_to_it(folder: Path) -> None:
    async with visiting(folder, None, whole=True, public_url="https://pages.example") as http:
        answer = await http.post(
            "/review/sign-in",
            data={"token": ALICE},
            headers={"Host": "pages.example", "Origin": "https://pages.example"},
        )
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-rmi-agent=") and "Secure" in cookie


@pytest.mark.parametrize(
    "leads_to",
    [
        "https://evil.com",
        "//evil.com",
        "//[",
        "/\\evil.com",
        "/mcp",
        "javascript:1",
        "/sessions/\r\nX: y",
        "",
    ],
)
async def test_a_sign_in_leads_to_a_page_and_nowhere_else(folder: Path, leads_to: str) -> None:
    async with visiting(folder, None) as http:
        answer = await http.post("/review/sign-in", data={"token": ALICE, "next": leads_to})
        assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-1] + ("A" if c[-1] != "A" else "B"),
        lambda c: "Ym9i" + c[c.index(".") :],  # bob's name
        lambda c: c.replace(c.split(".")[1], "9999999999"),
        lambda c: c.rsplit(".", 1)[0],
        lambda c: c + ".x",
        lambda c: "",
        lambda c: "..",
        lambda c: "é",
        lambda c: ALICE,
    ],
)
async def test_an_edited_cookie_is_nobodys(folder: Path, change: object) -> None:
    ways = access.ByToken(access.Tokens({"alice": ALICE, "bob": BOB}))
    cookie = await ways.cookie(ALICE)
    assert cookie is not None and ways.viewer(cookie) == access.Viewer("alice")
    assert ways.viewer(change(cookie)) is None  # type: ignore[operator]


async def test_cookies_and_links_survive_a_restart_and_end_with_time_and_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = access.ByToken(access.Tokens({"alice": ALICE}))
    cookie = await ways.cookie(ALICE)
    link = ways.share(access.Viewer("alice"), "a.b", 60)
    assert cookie is not None and link is not None
    again = access.ByToken(access.Tokens({"alice": ALICE, "bob": BOB}))
    assert again.viewer(cookie) == access.Viewer("alice")
    shared = again.shared(link)
    assert shared is not None and (shared.shared, shared.name) == ("a.b", "alice")
    for tokens in ({"alice": "another-token-of-alice"}, {"bob": BOB}, {"bob": ALICE}):
        changed = access.ByToken(access.Tokens(tokens))
        assert changed.viewer(cookie) is None
    assert access.ByToken(access.Tokens({"alice": "another-token-of-alice"})).shared(link) is None
    later = time.time() + 61
    monkeypatch.setattr(access.time, "time", lambda: later)
    assert ways.viewer(cookie) and ways.shared(link) is None
    later += 31 * 86_400
    assert ways.viewer(cookie) is None


async def test_wrong_tokens_shut_the_page_for_a_while(folder: Path) -> None:
    async with visiting(folder, None) as http:
        for _ in range(30):
            assert (await http.post("/review/sign-in", data={"token": "x"})).status_code == 403
        answer = await http.post("/review/sign-in", data={"token": ALICE})
        assert answer.status_code == 429 and "10 minutes" in answer.text
        assert "Retry-After" in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["http://evil.com", "null", "http://localhost:3000", "http://127.0.0.1:8000", None, "", "x"],
)
async def test_forms_of_other_pages_do_nothing(
    folder: Path, session: Path, origin: str | None
) -> None:
    async with visiting(folder, whole=True) as http:
        headers = {} if origin is None else {"Origin": origin}
        if origin is None:
            del http.headers["Origin"]
        for path, form in (
            ("/review/sign-in", {"token": ALICE}),
            ("/review/sign-out", {}),
            (f"/sessions/{NAME}/share", {"for": "1 day"}),
        ):
            answer = await http.post(path, data=form, headers=headers)
            assert answer.status_code == 403, path
            assert "set-cookie" not in answer.headers


# -- the link that a start prints


def offering(folder: Path) -> tuple[access.ByToken, httpx2.AsyncClient]:
    """Pages whose server has printed a link, and a browser."""
    viewers = access.ByToken(access.Tokens({"alice": ALICE, "bob": BOB}))
    transport = httpx2.ASGITransport(ReviewAuth(Index(folder), viewers, rights="in a box"))
    headers = {"Origin": "http://localhost:8000"}
    return viewers, httpx2.AsyncClient(
        transport=transport, base_url="http://localhost:8000", headers=headers
    )


async def test_a_link_signs_in_once_by_its_button_and_not_by_being_looked_at(
    folder: Path, session: Path
) -> None:
    viewers, http = offering(folder)
    link = f"/review/enter/{viewers.offer('alice')}"
    async with http:
        for _ in range(3):  # programs that look ahead
            assert (await http.head(link)).status_code == 200
            page = await http.get(link)
            assert '<form method="post">' in page.text and "set-cookie" not in page.headers
            assert "Code that assistants run here runs in a box." in page.text
        assert (await http.get("/")).status_code == 401
        for origin in ("http://evil.com", "null"):
            refused = await http.post(link, headers={"Origin": origin})
            assert refused.status_code == 403 and "set-cookie" not in refused.headers
        let_in = await http.post(link)
        assert let_in.status_code == 200 and "SameSite=strict" in let_in.headers["set-cookie"]
        assert ALICE not in str(let_in.headers)
        assert NAME in (await http.get("/")).text
        http.cookies.clear()
        for again in (await http.get(link), await http.post(link)):
            assert again.status_code == 403 and "does not work any more" in again.text


async def test_a_link_ends_with_time_with_the_next_one_and_with_its_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewers, http = offering(folder)
    first, second = viewers.offer("alice"), viewers.offer("bob")
    assert (viewers.offered(first), viewers.redeem(first)) == (None, None)
    assert viewers.offered(second) == "bob" and viewers.offered("") is None
    later = time.monotonic() + access.LINK_SECONDS + 1
    with monkeypatch.context() as patch:
        patch.setattr(access.time, "monotonic", lambda: later)
        assert (viewers.offered(second), viewers.redeem(second)) == (None, None)
    assert viewers.redeem(viewers.offer("nobody")) is None
    async with http:
        for guess in ("x", "é", "%00"):
            assert (await http.get(f"/review/enter/{guess}")).status_code == 403
            assert (await http.post(f"/review/enter/{guess}")).status_code == 403


@pytest.mark.parametrize(
    ("principals", "terminal", "shown"),
    [(("token",), True, True), (("token",), False, False), (("alice", "bob"), True, False)],
)
def test_a_link_is_shown_to_one_user_at_a_terminal(
    principals: tuple[str, ...],
    terminal: bool,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    viewers = access.ByToken(access.Tokens(dict.fromkeys(principals, ALICE)))
    offer_link(viewers, principals, "http://127.0.0.1:8000")
    out, err = capsys.readouterr()
    assert out == "" and "/review/enter" not in caplog.text
    found = re.search(r"http://127\.0\.0\.1:8000/review/enter/(\S{43})\n", err)
    assert bool(found) == shown
    assert found is None or viewers.offered(found[1]) == "token"


# -- sharing


async def shared_link(http: object) -> str:
    answer = await http.post(f"/sessions/{NAME}/share", data={"for": "1 hour"})  # type: ignore[attr-defined]
    assert answer.status_code == 200
    return str(answer.text.split('value="http://localhost:8000')[1].split('"')[0])


async def test_a_shared_link_shows_one_session_read_only_and_no_other(
    folder: Path, session: Path
) -> None:
    write(folder, "other", code("another"))
    async with visiting(folder) as http:
        link = await shared_link(http)
        http.cookies.clear()
        page = await http.get(link)
        assert page.status_code == 200 and "hello" in page.text and "shared until" in page.text
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "jupyter lab" not in page.text and str(folder) not in page.text
        assert 'action="' not in page.text and "/sessions/" not in page.text
        for rest in ("/live?seen=", "/output/2/0/picture", "/output/3/0/frame", "/download/html"):
            assert (await http.get(link + rest)).status_code == 200, rest
        assert (await http.post(f"{link}/share", data={"for": "1 day"})).status_code == 404
        for path in ("/", "/sessions/other", f"/sessions/{NAME}"):
            assert (await http.get(path)).status_code == 401


async def test_a_link_that_is_over_edited_or_forged_says_the_same(
    folder: Path, session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "other", code("another"))
    write(folder, "bobs", code("bobs"), principal="bob")
    tokens = access.Tokens({"alice": ALICE})
    forged = access.ByToken(tokens).share(access.Viewer("alice"), "bobs", 60)
    async with visiting(folder) as http:
        link = await shared_link(http)
        name, until, mac = link.removeprefix("/shared/").rsplit(".", 2)
        answers = []
        for bad in (
            f"other.{until}.{mac}",
            f"{name}.{int(until) + 1}.{mac}",
            f"{name}.{until}.{mac[:-2]}AA",
            f"{name}.{until}",
            f"{name}..",
            forged,  # alice's key, and a session that is not hers
            f"{name}.{until}.{mac}.x",
        ):
            answers.append(await http.get(f"/shared/{bad}"))
        later = time.time() + 3_601
        monkeypatch.setattr(access.time, "time", lambda: later)
        answers.append(await http.get(link))
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert "may have expired" in answers[0].text


# -- headers


async def test_every_page_has_headers_that_hold_browsers_to_it(folder: Path, session: Path) -> None:
    async with visiting(folder, whole=True) as http:
        link = await shared_link(http)
        paths = [
            "/",
            f"/sessions/{NAME}",
            "/sessions/x",
            f"/sessions/{NAME}/live",
            link,
            "/shared/x",
        ]
        paths += [f"/sessions/{NAME}/{p}" for p in ("output/2/0/picture", "output/3/0/frame")]
        paths += [f"/sessions/{NAME}/download/{kind}" for kind in ("ipynb", "py", "html")]
        paths += ["/review/static/review.js", "/review/static/nothing"]
        for path in paths:
            headers = (await http.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy, path
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["cross-origin-opener-policy"] == "same-origin", path
            assert headers["cross-origin-resource-policy"] == "same-origin", path
            assert headers["referrer-policy"] in ("same-origin", "no-referrer"), path
            if "frame" not in path.rsplit("/", 1)[1]:
                assert "unsafe" not in policy, path
            else:
                assert policy.startswith("sandbox allow-scripts; ")
                assert "script-src 'sha256-" in policy and "allow-same-origin" not in policy


async def test_pages_are_many_requests_and_no_share_of_tools(folder: Path, session: Path) -> None:
    async with visiting(folder, whole=True, rate_limit=1) as http:
        answers = await asyncio.gather(
            *(http.get(f"/sessions/{NAME}/output/2/0/picture") for _ in range(150))
        )
    assert {answer.status_code for answer in answers} == {200}
