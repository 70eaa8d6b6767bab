"""Scripts of others, with fakes in their place: who runs when, with which flags, and what is made of what they print."""

import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import peers
from experiments.benchmarks.peers import Contestant
from kljax.command_line import compose
from kljax.config import Config
from kljax.errors import UserError
from kljax.runs.setup import prepare

FAKE = """
import json, pathlib, sys
log = pathlib.Path(__file__).with_name("log")
turns = log.read_text().split() if log.exists() else []
name = sys.argv[1]
log.write_text(" ".join([*turns, name]))
scale, turn = {"ours": 1, "slow": 3}[name], turns.count(name)
print("some library says hello")
print("step_s", [99.0, 98.0, scale * (1.0 + turn), scale * (2.0 + turn)])
print("split_s", {"rollout": 0.5})
print(json.dumps({"params": 7, "batch": 4, "new_tokens": 10, "peak_rss_mb": 100 + turn}))
"""


@pytest.fixture
def fake(tmp_path):
    """fake(name): a contestant that says which turn it was."""
    (tmp_path / "fake.py").write_text(FAKE)
    return lambda name: Contestant(name, (sys.executable, str(tmp_path / "fake.py"), name))


@pytest.fixture(scope="module")
def setup():
    return prepare(compose(["experiment=benchmark_xs", "mesh.data=1", "model.kv_heads=2"], Config))


@pytest.fixture
def scripts(tmp_path):
    for peer in peers.PEERS.values():
        (tmp_path / peer.script).touch()
    return tmp_path


def test_turns_alternate_and_their_steps_are_pooled_without_the_warm_up(fake, tmp_path):
    ours, slow = peers.compare([fake("ours"), fake("slow")], rounds=2)
    assert (tmp_path / "log").read_text().split() == ["ours", "slow", "ours", "slow"]
    assert ours.step.seconds == (1.0, 2.0, 2.0, 3.0)
    assert slow.step.seconds == (3.0, 6.0, 6.0, 9.0)
    assert (slow.step.median, slow.step.min, slow.step.max) == (6.0, 3.0, 9.0)
    assert (ours.parameters, ours.peak_rss_mb, ours.tokens_per_second) == (7, 101, 4 * 10 / 2.0)


def test_where_tcmalloc_is_installed_each_runs_with_it_too(monkeypatch):
    said = f"dict.fromkeys({peers.NEEDED}, 1) | {{'preloaded': os.environ.get('LD_PRELOAD')}}"
    says = f"import json, os; print('step_s', [1.0, 1.0, 1.0]); print(json.dumps({said}))"
    one = Contestant("one", (sys.executable, "-c", says))
    monkeypatch.setattr(peers, "find_library", lambda name: None)
    assert peers.with_each_malloc([one]) == [one]
    monkeypatch.setattr(peers, "find_library", lambda name: f"lib{name}.so.none")
    plain, other = peers.with_each_malloc([one])
    assert (plain, other.name) == (one, "one, tcmalloc")
    assert peers.run(plain)[1]["preloaded"] is None
    assert peers.run(other)[1]["preloaded"] == "libtcmalloc_minimal.so.none"


def test_only_peers_whose_interpreter_is_given_run_and_they_know_the_sizes(setup, scripts):
    (tunix,) = peers.contestants(setup, 6, {"trl": None, "tunix": Path(sys.executable)}, scripts)
    assert tunix.name == "tunix grpo"
    assert tunix.command[:2] == (sys.executable, str(scripts / "tunix_grpo.py"))
    flags = dict(zip(tunix.command[2::2], tunix.command[3::2], strict=True))
    sizes = {"steps": 6, "batch": 256, "group": 4, "prompt": 8, "new": 24, "vocab": 128, "d": 64, "layers": 2, "heads": 4}
    assert flags == {f"--{name}": str(value) for name, value in (sizes | {"kv-heads": 2, "mlp": 168, "beta": 0.05}).items()}
    both = peers.contestants(setup, 6, {"trl": Path(sys.executable), "tunix": Path(sys.executable)}, scripts)
    assert [contestant.command[2:4] for contestant in both][1:] == [("--algo", "grpo"), ("--algo", "rloo")]


@pytest.mark.parametrize(
    ("pythons", "there", "said"),
    [
        ({"trl": None, "tunix": None}, True, r"^--peers: no interpreter .* --trl-python, --tunix-python, .*README"),
        ({"trl": Path("/no/python"), "tunix": None}, True, r"^--trl-python: '/no/python' is no file"),
        ({"trl": Path(sys.executable), "tunix": None}, False, r"^--peers-scripts: .* has no trl_rl.py; expected the folder"),
    ],
)
def test_what_is_missing_is_said(setup, scripts, tmp_path, pythons, there, said):
    with pytest.raises(UserError, match=said):
        peers.contestants(setup, 6, pythons, scripts if there else tmp_path / "nowhere")


def test_adapters_have_no_peer(scripts):
    lora = prepare(compose(["experiment=benchmark_xs", "mesh.data=1", "adapter=lora"], Config))
    with pytest.raises(UserError, match="adapter=lora, expected none"):
        peers.contestants(lora, 6, {"trl": Path(sys.executable)}, scripts)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit('no module named tunix')", "exit code 1; .* Its last words: no module named tunix"),
        ("print('hello')", "exit code 0; expected a line .* Its last words: hello"),
        ("print('step_s', [1, 2]); print('{}')", "of more than 2 steps"),
    ],
)
def test_a_script_that_fails_is_named_with_its_last_words(program, said):
    with pytest.raises(UserError, match=f"^odd: .*{said}"):
        peers.run(Contestant("odd", (sys.executable, "-c", program)))


def test_what_the_peers_scripts_print_is_read():
    printed = "\n".join(
        ["noise", "step_s [12.5, 3.1, 3.0]", "split_s {'step': 3.0}", json.dumps(dict.fromkeys(peers.NEEDED, 1))]
    )
    assert peers.parse(printed) == ([12.5, 3.1, 3.0], dict.fromkeys(peers.NEEDED, 1))
