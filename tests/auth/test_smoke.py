from __future__ import annotations
from .conftest import AuthServer

def test_smoke(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    proxy = auth.join("gate", "proxy", addresses=["127.0.0.1:3080"])
    client, body = auth.user("alice", ["admin", "access"], ["pi"])
    print(body)
    print(client.get("/v1/nodes"))
    print(client.get("/v1/status"))
    print(node.client.get("/v1/nodes"))
    print(proxy.client.post("/v1/presence", {"full": True, "nodes": [{"uuid": node.uuid, "online": True}]}))
    import base64
    line = body["ssh_certificate"].split()[1]
    print(proxy.client.post("/v1/access", {"certificate": line, "target": "greenhouse", "login": "pi", "source": "127.0.0.1"}))
    print(proxy.client.post("/v1/access", {"certificate": line, "target": "nope", "login": "pi", "source": "127.0.0.1"}))
    lines = proxy.client.lines("/v1/watch")
    for _ in range(3): print(str(next(lines))[:100])
    lines.close()
    print(auth.local().get("/v1/audit"))
    print(auth.local().get("/v1/audit/head"))
    print(auth.local().post("/v1/explain", {"user":"alice","login":"pi","node":"greenhouse"}))
