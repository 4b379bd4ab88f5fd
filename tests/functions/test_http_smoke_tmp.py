from tests.functions.live import fresh
def test_x(live):
    a=fresh()
    r=live.recorded(a,10,20)
    print(r)
    g=live.balance.get("/balances",params={"accountId":a}); print(g.status_code,g.text,g.headers)
    for c in (live.record,live.balance):
        for p in ("/openapi.json","/docs"):
            x=c.get(p); print(x.status_code,x.headers.get("content-type"),len(x.text))
            assert x.status_code==200
    assert g.json()["value"]==30
