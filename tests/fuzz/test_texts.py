"""What equipment says."""

from __future__ import annotations

from edgeslm.core.template import canonical, join, number, readable, split, tokens
from tests.fuzz.harness import fuzz

LINES = (
    b"motor temp=-72.4 C at 12:30:01, 1,234.5 rpm, e=1.5e-3",
    b"10.0.0.1:8080 GET /var/log/app-1/x.log 0xdeadbeef 6f1c2d3e-0000-4444-8888-aabbccddeeff",
    b"00:1a:2b:3c:4d:5e 001a.2b3c.4d5e fe80::1%eth0 [2001:db8::5]:443 opc.tcp://x/y a.b@c.example",
    b"Nov 22 06:25:12 node-R12-M1-N4 id=a1b2c3d4e5 nan inf -0 \xc2\xa4 \xe2\x82\xac",
)


def test_template_splitting(targets: int) -> None:
    def parse(raw: bytes) -> None:
        text = raw.decode("utf-8", "surrogateescape")
        parts = split(text)
        assert join(parts) == text
        assert parts == split(text)
        tokens(canonical(parts.template))
        readable(parts.template)
        for slot in parts.slots:
            number(slot)

    fuzz(parse, LINES, targets=targets)
