"""What is not offered is refused all the same, and what comes from elsewhere is heard by nobody."""

from __future__ import annotations

from typing import Any

from tests.web import made_up
from tests.web.person import Person

#: of the page itself, as a person with the browser's tools would ask
ASK = """async ([method, path, body, token]) => {
    const about = await (await fetch('/web/api/whoami')).json();
    const headers = { 'Content-Type': 'application/json', 'Tinyport-Csrf': token ?? about.csrf };
    const answer = await fetch(path, { method, headers, body: method === 'GET' ? undefined : JSON.stringify(body) });
    return [answer.status, (await answer.json()).error?.code ?? ''];
}"""


def asks(person: Person, method: str, path: str, body: object = None, token: str | None = None) -> list[Any]:
    """[status, error's code]"""
    return list(person.page.evaluate(ASK, [method, path, body or {}, token]))


def test_what_a_role_may_not_do(person: Person) -> None:
    person.joins("rita")
    menu = person.page.get_by_role("navigation")
    assert [link.strip() for link in menu.get_by_role("link").all_inner_texts()][1:] == [
        "Nodes",
        "Terminals",
        "Sessions",
        "Your account",
    ]
    for page in ("users", "roles", "tokens", "pending", "locks", "audit", "recordings"):
        person.goes_to(page)
        person.page.get_by_role("heading", name="There is no such page").wait_for()
    person.goes_to("nodes")
    person.page.get_by_role("button", name="Connect to").wait_for()
    assert person.page.get_by_role("button", name="Remove").count() == 0
    node = person.cluster.node
    for method, path in (
        ("GET", "users"),
        ("GET", "audit"),
        ("GET", "tokens"),
        ("GET", "locks"),
        ("GET", "resources/role"),
        ("GET", "recordings"),
        ("POST", "tokens"),
        ("POST", "locks"),
        ("DELETE", f"nodes/{node}"),
        ("PATCH", f"nodes/{node}"),
        ("PUT", "resources/role/rita"),
        ("DELETE", "recordings/abcdef0123456789"),
        ("GET", "recordings/abcdef0123456789"),
    ):
        assert asks(person, method, f"/web/api/v1/{path}") == [403, "denied"], path
    # Nor is anything passed on that the page does not need.
    for method, path in (("POST", "sign"), ("POST", "rotation"), ("GET", "watch"), ("GET", "ca"), ("POST", "backup")):
        assert asks(person, method, f"/web/api/v1/{path}")[0] == 404, path
    assert asks(person, "POST", "/web/api/renew", token="guess") == [403, "csrf"]


def test_another_site_s_page(person: Person) -> None:
    person.joins("xenia")
    other = person.new_page()
    other.route("https://evil.example/*", lambda route: route.fulfill(content_type="text/html", body="<h1>evil</h1>"))
    other.goto("https://evil.example/")
    outcome = other.evaluate(
        """async base => {
            const sent = [];
            for (const path of ['/web/api/logout', '/web/api/renew', '/web/api/login']) {
                try {
                    await fetch(base + path, { method: 'POST', credentials: 'include', mode: 'no-cors', body: '{}' });
                } catch (error) { sent.push(String(error)); }
            }
            const opened = await new Promise(resolve => {
                const socket = new WebSocket(base.replace('https', 'wss') + '/web/ws/terminal');
                socket.onopen = () => resolve(true);
                socket.onerror = () => resolve(false);
            });
            const framed = await new Promise(resolve => {
                const frame = document.createElement('iframe');
                frame.onload = () => { try { resolve(frame.contentDocument?.title ?? ''); } catch { resolve(''); } };
                frame.src = base;
                document.body.append(frame);
            });
            return { opened, framed };
        }""",
        person.base,
    )
    assert outcome == {"opened": False, "framed": ""}
    # Whoever was logged in still is.
    assert asks(person, "GET", "/web/api/v1/nodes") == [200, ""]


def test_hostile_names_are_text(person: Person) -> None:
    person.joins("hugo", roles="access,admin")
    asked: list[str] = []
    person.page.on("dialog", lambda dialog: asked.append(dialog.message))
    made_up.fill(person)
    for page in ("nodes", "pending", "sessions", "locks", "recordings"):
        person.goes_to(page)
        person.page.get_by_text(made_up.HOSTILE).first.wait_for()
    assert person.page.locator("main script, main img, main svg[onload]").count() == 0
    assert asked == []
    assert person.complaints == []


def test_the_policy_of_the_page(person: Person) -> None:
    """Even if a name became code, it would not run."""
    person.joins("cleo")
    outcome = person.page.evaluate(
        """() => {
            const outcome = {};
            const script = document.createElement('script');
            try { script.textContent = 'window.ran = true'; document.body.append(script); } catch { }
            outcome.script = window.ran === true;
            try { document.body.innerHTML = '<b>x</b>'; outcome.html = true; } catch { outcome.html = false; }
            const style = document.createElementNS('http://www.w3.org/1999/xhtml', 'style');
            style.textContent = 'body { outline: 7px solid red }';
            document.head.append(style);
            outcome.style = getComputedStyle(document.body).outlineWidth === '7px';
            return outcome;
        }"""
    )
    assert outcome == {"script": False, "html": False, "style": False}
    policy = person.page.goto(person.base).headers["content-security-policy"]
    assert "'unsafe-eval'" not in policy
    assert policy.count("'unsafe-inline'") == policy.count("style-src-attr 'unsafe-inline'") == 1
    assert any("Content Security Policy" in line for line in person.complaints)


def test_too_many_attempts(person: Person) -> None:
    """The page says how long to wait."""
    page = person.page
    page.goto(person.base)
    page.route(
        "**/web/api/login",
        lambda route: route.fulfill(
            status=429,
            content_type="application/json",
            body='{"error": {"code": "slow_down", "message": "too many attempts", "hint": "try again in 30 s"}}',
        ),
    )
    page.get_by_label("User").fill("anna")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("Try again in 30 s").wait_for()
