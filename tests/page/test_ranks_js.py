"""The page's rank rules are those of the worker, number for number."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankpress.names import Rule
from rankpress.reporting import words
from tests.end_to_end.processes import ROOT
from worker.ranks.rules import apply_multiple, break_even_rank, rank_for

PAGE = ROOT / "app" / "page"
RULES = (Rule.ENTROPY, Rule.ENTROPY_SQUARED, Rule.ENERGY, Rule.RATIO)
SINGLE, DOUBLE = 2.0**-23, 2.0**-52


@pytest.fixture(scope="module")
def node() -> str:
    path = shutil.which("node")
    if path is None:
        pytest.skip("no node on this machine: apt-get install nodejs")
    return path


def evaluate(node: str, script: str, data: Any, folder: Path) -> Any:
    """What an ES module prints as JSON; `data` is its input, PAGE its folder of modules."""
    file = folder / "data.json"
    file.write_text(json.dumps(data))
    head = (
        'import { readFileSync } from "node:fs";\n'
        f"const data = JSON.parse(readFileSync({json.dumps(str(file))}));\n"
    )
    script = script.replace("PAGE", PAGE.as_uri())
    done = subprocess.run(
        [node, "--input-type=module", "-e", head + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def spectra() -> list[tuple[list[float], int, int]]:
    """Decaying, flat, low-rank, noisy, tiny and huge, of shapes wide, tall and thin."""
    rng = np.random.default_rng(7)
    found = []
    for m, n in ((1, 1), (2, 9), (10, 10), (10, 256), (300, 200), (128, 129)):
        r = min(m, n)
        made = [
            np.ones(r),
            0.9 ** np.arange(r),
            10.0 ** -np.arange(r),
            np.where(np.arange(r) < (r + 1) // 2, 1.0, 1e-9),
            1e30 / (1 + np.arange(r)),
            1e-30 / (1 + np.arange(r)) ** 2,
            np.linalg.svd(rng.standard_normal((m, n)), compute_uv=False),
            np.sort(rng.random(r))[::-1] + 1e-3,
        ]
        found += [(list(map(float, s)), m, n) for s in made]
    return found


def test_ranks_are_the_workers(node: str, tmp_path: Path) -> None:
    taus = [*(i / 200 for i in range(1, 201)), 0.001, 0.333, 0.7, 0.999, 0.9999, 1.0]
    cases = [
        {"rule": rule, "s": s, "m": m, "n": n, "eps": eps}
        for rule in RULES
        for s, m, n in spectra()
        for eps in (SINGLE, DOUBLE)
    ]
    script = """
      const { prepare } = await import("PAGE/ranks.js");
      console.log(JSON.stringify(data.cases.map(({ rule, s, m, n, eps }) => {
        const ready = prepare(rule, s, m, n, eps);
        return data.taus.map((tau) => ready.rank(tau));
      })));"""
    found = evaluate(node, script, {"cases": cases, "taus": taus}, tmp_path)
    for case, ranks in zip(cases, found, strict=True):
        s = np.array(case["s"])
        expected = [
            rank_for(case["rule"], s, case["m"], case["n"], tau, eps=case["eps"]) for tau in taus
        ]
        assert ranks == expected, (case["rule"], case["m"], case["n"], case["eps"])


def test_break_even_and_multiples(node: str, tmp_path: Path) -> None:
    sizes = [(m, n) for m in (1, 2, 7, 10, 512, 4096) for n in (1, 3, 64, 784, 11008)]
    multiples = [(k, q, full) for k in (1, 7, 8, 9) for q in (1, 8, 64) for full in (9, 64)]
    script = """
      const { applyMultiple, breakEvenRank } = await import("PAGE/ranks.js");
      console.log(JSON.stringify([data.sizes.map(([m, n]) => breakEvenRank(m, n)),
        data.multiples.map(([k, q, full]) => applyMultiple(k, q, full))]));"""
    even, multiple = evaluate(node, script, {"sizes": sizes, "multiples": multiples}, tmp_path)
    assert even == [break_even_rank(m, n) for m, n in sizes]
    assert multiple == [apply_multiple(*case) for case in multiples]


def test_words_are_those_of_the_reports(node: str, tmp_path: Path) -> None:
    script = """
      const { ACTIONS, REASONS, RULES, VERDICTS } = await import("PAGE/words.js");
      console.log(JSON.stringify([ACTIONS, REASONS, RULES, VERDICTS]));"""
    found = evaluate(node, script, None, tmp_path)
    assert found == [words.ACTIONS, words.REASONS, words.RULES, words.VERDICTS]


def test_events_are_read_however_they_are_cut(node: str, tmp_path: Path) -> None:
    text = (
        ': hello\r\nevent: state\r\ndata: {"a":\r\ndata: 1}\r\n\r\nid: 3-0\ndata:τ\n\n'
        "id: end\nevent: done\ndata: x\n\n"
    )
    script = """
      globalThis.document = {};
      const { events } = await import("PAGE/follow.js");
      const all = [];
      const bytes = new TextEncoder().encode(data);
      for (const size of [1, 2, 3, 7, 1000]) {
        const chunks = [];
        for (let i = 0; i < bytes.length; i += size) chunks.push(bytes.slice(i, i + size));
        const found = [];
        for await (const event of events(ReadableStream.from(chunks))) found.push(event);
        all.push(found);
      }
      console.log(JSON.stringify(all));"""
    found = evaluate(node, script, text, tmp_path)
    expected = [
        {"type": "state", "data": '{"a":\n1}', "id": None},
        {"type": "message", "data": "τ", "id": "3-0"},
        {"type": "done", "data": "x", "id": "end"},
    ]
    assert found == [expected] * 5


HOSTILE = {
    "base": "http://h/",
    "key": True,
    "model": 'it\'s; rm -rf $HOME "q"\\ ,type=x.pt',
    "validation": "ünï\U0001f600.npz",
    "rule": "energy",
    "tau": 0.85,
    "protectOutput": False,
    "evaluation": {"task": "fidelity", "architecture": {"kind": "mlp", "activation": "gelu"}},
}


def test_snippets_quote_what_they_are_given(node: str, tmp_path: Path) -> None:
    script = """
      const { curl, pythonCode } = await import("PAGE/snippets.js");
      console.log(JSON.stringify([curl(data), pythonCode(data)]));"""
    curl, python = evaluate(node, script, HOSTILE, tmp_path)
    # The shell's own reading, with printf in curl's place.
    done = subprocess.run(
        ["bash", "-c", "curl() { printf '%s\\0' \"$@\"; }; " + curl],
        env={"RANKPRESS_API_KEY": "secret", "HOME": "/expanded"},
        capture_output=True,
        text=True,
        check=True,
    )
    arguments = done.stdout.split("\0")
    assert 'model=@"it\'s; rm -rf $HOME \\"q\\"\\\\ ,type=x.pt"' in arguments
    assert "Authorization: Bearer secret" in arguments
    options = next(a for a in arguments if a.startswith("options="))
    assert json.loads(options[8:])["evaluation"] == HOSTILE["evaluation"]

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Client:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            calls.append((arguments, named))

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def compress(self, *arguments: Any, **named: Any) -> Any:
            calls.append((arguments, named))
            return self

        path = None

        @property
        def report(self) -> Any:
            return type("Report", (), {"bytes_after": 1})

    code = python.replace("from rankpress.client import Client", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKPRESS_API_KEY", "secret")
        exec(code, {"Client": Client})
    assert calls == [
        (("http://h",), {"api_key": "secret"}),
        (
            (HOSTILE["model"],),
            {
                "threshold": 0.85,
                "rule": "energy",
                "validation": HOSTILE["validation"],
                "protect_output": False,
                "evaluation": HOSTILE["evaluation"],
            },
        ),
    ]


def test_snippets_of_rules_of_the_whole_model(node: str, tmp_path: Path) -> None:
    mlp = {"kind": "mlp", "activation": "relu"}
    bounded = {"task": "classification", "architecture": mlp, "max_drop": {"accuracy": 0.005}}
    job = {"base": "http://h/", "key": False, "model": "m.pt", "validation": None, "tau": None}
    job |= {"protectOutput": True, "evaluation": None}
    jobs = [
        {**job, "rule": "budget", "budget": {"parameters": 0.6, "bytes": None, "flops": None}},
        {**job, "rule": "auto", "budget": None, "validation": "v.npz", "evaluation": bounded},
    ]
    script = """
      const { curl, pythonCode } = await import("PAGE/snippets.js");
      console.log(JSON.stringify(data.map((job) => [curl(job), pythonCode(job)])));"""
    (curl, python), (bounded_curl, bounded_python) = evaluate(node, script, jobs, tmp_path)
    wanted = {"rule": "budget", "budget": {"parameters": 0.6}}
    assert curl.endswith(f"""-F 'model=@"m.pt"' -F 'options={compact(wanted)}'""")
    assert """compress("m.pt", rule="budget", budget={"parameters": 0.6})""" in python
    wanted = {"rule": "auto", "evaluation": bounded}
    assert bounded_curl.endswith(f"""-F 'validation=@"v.npz"' -F 'options={compact(wanted)}'""")
    assert (
        f"""rule="auto", validation="v.npz", evaluation={json.dumps(bounded)})""" in bounded_python
    )


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
