"""Calls that the server compiles once: the same results as from text, for a bounded number of problems."""

from reward import Sandbox
from reward.sandbox import Job, calls
from reward.sandbox.calls import CallNumbers, CompiledCalls

CODE = "class Solution:\n    def f(self, x): return x + 1"


def job(*expressions, code=CODE):
    return Job("", code, expressions)


def test_compiled_calls_give_what_their_text_gives():
    expressions = (
        "Solution().f(1)",
        " Solution().f(2)",
        "Solution().f(",
        "Solution().g(1)",
        "f'{Solution().f(3)}'",
    )
    with Sandbox() as sandbox:
        results = [sandbox.run(job(*expressions)).lines for _ in range(4)]
        other = sandbox.run(job("Solution().f(5)")).lines
        assert sandbox.run(job(*expressions)).lines == results[0]
        failed = sandbox.run(job(*expressions, code="class Solution: pass")).lines[1:]
        assert [line["i"] for line in failed] == list(range(5)) and all("e" in line for line in failed)
    assert results[0] == results[1] == results[2] == results[3]
    assert [line.get("v") for line in results[0][1:]] == [2, 3, None, None, "4"]
    assert other[1] == {"i": 0, "v": 6}


def test_a_new_server_is_told_again():
    with Sandbox() as sandbox:
        for _ in range(3):
            sandbox.run(job("Solution().f(1)"))
        sandbox._stop(kill=True)
        for _ in range(3):
            assert sandbox.run(job("Solution().f(1)")).lines[1] == {"i": 0, "v": 2}
        assert sandbox.faults == 0


def test_calls_that_may_hold_a_responses_values_are_never_sent_apart(monkeypatch):
    monkeypatch.setattr(CallNumbers, "number", lambda *a: 1 // 0)
    with Sandbox() as sandbox:
        assert sandbox.run(Job("", None, ("1 + 1",))).lines == ({"i": 0, "v": 2},)


def test_both_sides_keep_the_same_calls(monkeypatch):
    monkeypatch.setattr(calls, "KEPT", 4)
    client, server, told = CallNumbers(), CompiledCalls(), 0
    for n in range(2000):
        some = (f"{(n * n + n // 7) % 9}",)
        number, is_new = client.number(some)
        if is_new:
            server.add(f'[{number}, ["{some[0]}"]]')
            told += 1
        if number:
            wanted = {"calls": number}
            server.put_into(wanted)
            assert eval(wanted["calls"][0]) == int(some[0])
        assert len(server._compiled) <= 4 and len(client._numbers) <= 4
    assert 0 < told < 2000
    assert client.number(("new",)) == (0, False), "met once: the job carries its text"
