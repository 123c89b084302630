"""A sweep on an empty cluster, for real; only the vCenter and the cards are simulated.

Ray's autoscaler asks our provider, the simulated vCenter powers machines on, they become real nodes that join Ray,
train, die and are replaced, and go when they are idle. The laptop that all commands run on shares no folder with them:
what the sweep needs is sent, and what it has made is fetched. One story, told in a module fixture and checked part by
part; the times of its steps are printed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from raylora.api import inspect
from raylora.cluster.commands.connection import Connection
from raylora.cluster.ray.user_data import PASSWORD_FILE, TOKEN_FILE, read_guestinfo
from raylora.config.load import load_config
from raylora.snapshots.archive import verify_archive
from tests.cluster import hosts, vcsim
from tests.cluster.fleet import fleet, new_template
from tests.cluster.hosts import Machines
from tests.cluster.people.laptop import Command, places, reports, undisturbed, workers_of
from tests.cluster.people.secrecy import Outcome, Strangers, found
from tests.cluster.sites import in_simulator
from tests.training.fixtures import write_chats
from tests.tuning.runs import Event, events

pytestmark = pytest.mark.timeout(900)  # of which a machine with nothing else to do needs a tenth
STEPS, EVERY = 400, 40  # optimizer steps of a trial, examples between two reports: 20 steps
SAFE = 60  # steps after which Ray Tune surely has a checkpoint
TRIALS = 4
RATES = [1e-3, 2e-3, 3e-3, 4e-3]
SWEEP = f"""\
train_data_dir: data/chats.jsonl
base_model: models/llama
output_dir: sweeps/run
max_steps: {STEPS}
batch_size: 2
validate_every: {EVERY}
validation_examples: 2
lr_scheduler: constant
lora_rank: 2
sample_prompts: []
sweep:
  space: {{learning_rate: {RATES}}}
  searcher: grid
  scheduler: none
  slots_per_device: 1
"""
#: Two cards of each model for the sweep, two of each to replace what will be lost or drained, a host for the head.
HOSTS = (("RTX 4090",) * 2, ("RTX 3090",) * 2, ("RTX 3090",) * 2, ("RTX 4090",) * 2, ())
DRAINED, FAILING, SPARES = "esx-01.lab", "esx-02.lab", ("esx-03.lab", "esx-04.lab")
NOTICE = 8.0  # seconds that trials on a drained host have to save
NEW_TEMPLATE = "raylora-template-2"


@dataclasses.dataclass
class Story:
    """What happened.

    Attributes:
        folder: the laptop's.
        times: what came about, and when, in seconds since the sweep was submitted.
        types: node types of the first machines.
        before: the machines that trials ran on before any was lost, by trial.
        lost: what was lost: machine to how: "machine", "host" or "drained".
        events: of the sweep, from the loss until all trials ran again.
        result: what the sweep said at its end.
        status: what `raylora cluster status` said in its middle.
        handed: what `raylora cluster up` said when it was given a changed file, and one with a new template.
        drained: what `raylora cluster drain` said.
        failures: by trial how many Tune has counted.
        templates: versions of the templates that machines were made from: of those before the loss, and after it.
        foreign: other people's machines, before and after.
        sent: what was said while the sweep's data were sent.
        snapshot: what `raylora snapshot create` said, and what `raylora archive` did.
        left: machines of ours after `raylora cluster down`.
        secrets: where the token and the vCenter's password lay while trials ran, and at the end of the sweep.
        guestinfo: the user data that machines could still read there, decoded.
        strangers: how people without the token fared.
        references, histories: by trial the reports of an undisturbed run, and of the sweep's.
    """

    folder: Path
    times: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    events: list[Event] = dataclasses.field(default_factory=list)
    types: set[str] = dataclasses.field(default_factory=set)
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    foreign: list[Any] = dataclasses.field(default_factory=list)
    references: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)
    histories: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)
    secrets: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)
    guestinfo: list[str] = dataclasses.field(default_factory=list)
    strangers: dict[str, Outcome] = dataclasses.field(default_factory=dict)
    status: str = ""
    drained: str = ""
    handed: list[str] = dataclasses.field(default_factory=list)
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    templates: list[set[str]] = dataclasses.field(default_factory=list)
    sent: str = ""
    snapshot: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)


class Teller:
    """Makes the story happen."""

    def __init__(self, sim: vcsim.Simulator, machines: Machines, folder: Path) -> None:
        self.sim, self.machines, self.folder = sim, machines, folder
        self.shared = folder / "shared"
        self.run = self.shared / "sweeps/run"
        self.story = Story(folder)
        self.cluster = in_simulator(
            sim,
            folder,
            shared_folder=str(self.shared),
            idle_minutes=30,
            drain_seconds=NOTICE,
            head={"cpus": 1, "memory_gib": 2},
            id=None,
            addresses={"pool": [f"{hosts.NETWORK}.100-{hosts.NETWORK}.120"], "prefix": 24},
        )
        self.started = 0.0
        self.paused: dict[str, str] = {}

    def wait(self, what: str, check: Callable[[], Any], seconds: float = 150) -> Any:
        found = hosts.wait_for(self.machines, what, check, seconds)
        self.story.times.append((what, time.time() - self.started))
        return found

    def raylora(self, *words: str) -> Command:
        return Command(self.folder, *words, hidden=self.shared)

    def tell(self) -> Story:
        story, sim = self.story, self.sim
        story.foreign.append([machine for machine in sim.vms() if machine["name"].startswith("user-")])
        self.started = time.time()
        self.raylora("cluster", "up", str(self.cluster)).done()
        story.times.append(("the head is up", time.time() - self.started))
        self._reconfigure()
        began = time.time()
        self.raylora("data", "push", str(self.cluster), "models/llama").done()
        story.times.append(("a base model is sent, after", time.time() - began))
        self.started = time.time()
        self._grow()
        self._lose()
        self._end()
        return story

    def _reconfigure(self) -> None:
        """The head that runs is handed a changed YAML file; what follows is told by the changed one."""
        began = time.time()
        self._followed(self.raylora("cluster", "up", str(self.cluster), "idle_minutes=0.15"))
        self.story.times.append(("the head follows a changed file, after", time.time() - began))

    def _new_template(self) -> Command:
        """The head is handed a new version of the template."""
        (self.folder / "person").mkdir()
        with fleet(self.sim, self.folder / "person") as nodes:
            new_template(nodes, NEW_TEMPLATE, version="2")
        return self.raylora("cluster", "up", str(self.cluster), "idle_minutes=0.15", f"template={NEW_TEMPLATE}")

    def _followed(self, laptop: Command) -> None:
        laptop.done()
        self.story.handed.append(laptop.errors.read_text())
        value = laptop.words[-1].partition("=")[2]
        followed = self.machines.on["cats-head"].folder / "state/cluster.yaml"
        hosts.wait_for(
            self.machines, "the head follows it", lambda: followed.exists() and value in followed.read_text(), 150
        )

    def _templates(self, nodes: Iterable[str]) -> None:
        made_from = {self.sim.vm(name)["extraConfig"].get("version", "1") for name in nodes}
        self.story.templates.append(made_from)

    def _grow(self) -> None:
        """An empty cluster, and a sweep of four trials that want a card each."""
        for spare in SPARES:
            self.sim.host_state(spare, "maintenance")  # so that four trials need both kinds of card
        sweep = self.folder / "sweep.yaml"
        sweep.write_text(SWEEP)
        laptop = self.raylora("sweep", "--cluster", str(self.cluster), str(sweep), "--json", "--push")
        head = Connection(**json.loads((self.folder / "home/raylora/clusters/cats.json").read_text()))
        self.wait("first clone begins", lambda: any(kind == "clone" for _, kind, _ in self.machines.events[1:]))
        self.wait("four machines are on", lambda: len(self.machines.on) == 1 + TRIALS)
        workers = self.wait("four nodes have joined Ray", lambda: len(found := workers_of(head)) == TRIALS and found)
        self.story.types = {self.sim.vm(name)["extraConfig"]["raylora.type"] for name in workers.values()}
        self._templates(workers.values())
        self.strangers = Strangers(head, self.folder / "strangers")
        laptop.process.send_signal(signal.SIGKILL)  # the laptop is closed
        laptop.process.wait()
        self.story.sent = laptop.errors.read_text()
        handing = self._new_template()

        def all_under_way() -> dict[str, str] | None:
            for event in events(self.run, "report"):
                if event["step"] >= SAFE and event["trial"] not in self.paused:
                    self.paused[event["trial"]] = event["trainer"]
                    self._signal(event["trial"], signal.SIGSTOP)
            return places(events(self.run)) if len(self.paused) == TRIALS else None

        # Trials of seconds must not be over before something happens to them: each waits where it is.
        self.story.before = self.wait("four trials have checkpoints", all_under_way)
        status = self.raylora("cluster", "status", str(self.cluster))
        self._search(head.token)
        self._followed(handing)
        self.story.status = status.done()

    def _search(self, token: str) -> None:
        """Look for the cluster's secrets on machines that run, on the shared folder and on the laptop."""
        secrets = {"token": token, "password": self.sim.password}
        commands = [self.shared, self.folder / "home", *self.folder.glob("*.log")]
        self.story.secrets += found(secrets, self.machines, commands)
        for machine in self.machines.on.values():
            keys = json.loads((machine.folder / "guestinfo.json").read_text())
            self.story.guestinfo.append(read_guestinfo(keys, "userdata"))

    def _signal(self, trial: str, number: signal.Signals) -> None:
        machine, _, process = self.paused[trial].partition("/")
        self.machines.signal(machine, int(process), number)

    def _lose(self) -> None:
        """One machine loses its power unseen by vCenter, a host fails with two on it, and one is drained with one."""
        story = self.story
        on_host = {name: self.sim.vm(name)["host"] for name in story.before.values()}
        alone, leaving = sorted(name for name, host in on_host.items() if host == DRAINED)
        story.lost = {alone: "machine", leaving: "drained"}
        story.lost |= {name: "host" for name, host in on_host.items() if host == FAILING}
        trial = next(trial for trial, name in story.before.items() if name == leaving)
        seen = len(events(self.run))
        for spare in SPARES:
            self.sim.host_state(spare, "exit_maintenance")
        self.machines.cut(alone)
        self.sim.host_state(FAILING, "fail")
        drain = self.raylora("cluster", "drain", str(self.cluster), DRAINED)
        story.times.append(("a machine and a host with two are lost", time.time() - self.started))

        def moved() -> bool:
            return len(self.machines.on) == 1 + TRIALS and not story.lost.keys() & self.machines.on.keys()

        def all_resumed() -> bool:
            return {event["trial"] for event in events(self.run)[seen:] if event["event"] == "join"} == set(self.paused)

        with ThreadPoolExecutor() as pool:  # nobody notices the loss for ten seconds: time for comparison
            log = self.machines.on["cats-head"].folder / "autoscaler.log"
            self.wait("a worker of a drained host is to go", lambda: f"Ray lets {leaving} go" in log.read_text())
            self._signal(trial, signal.SIGCONT)  # what was sent to it meanwhile it reads now
            other = next(trial for trial, name in sorted(story.before.items()) if story.lost[name] == "host")
            references = {each: pool.submit(self._reference, each) for each in (trial, other)}
            self.wait("all four machines are replaced", moved)
            self._templates(self.machines.on.keys() - {"cats-head"})
            self.wait("their trials go on", all_resumed)
            story.events = events(self.run)[seen:]
            story.references = {trial: reference.result() for trial, reference in references.items()}
        story.drained = drain.done()

    def _reference(self, trial: str) -> list[dict[str, float]]:
        params = json.loads(next(self.run.glob(f"tune/{trial}/params.json")).read_text())
        config = load_config(self.run / "config.yaml").with_values(params)
        return undisturbed(config, self.shared / "cache", EVERY)

    def _end(self) -> None:
        """The laptop is opened again; the machines go, the cluster is taken down."""
        story = self.story
        sweep = ("sweep", "--cluster", str(self.cluster), str(self.folder / "sweep.yaml"), "--json")
        story.result = json.loads(self.raylora(*sweep).done().splitlines()[-1])
        story.times.append(("the sweep has ended", time.time() - self.started))
        self._search(json.loads((self.folder / "home/raylora/clusters/cats.json").read_text())["token"])
        story.strangers = self.strangers.outcomes()
        for trial in story.references:
            kept = max(self.run.glob(f"tune/{trial}/checkpoint_*"))
            story.histories[trial] = reports(kept)
        for trial in story.before:
            told = (self.run / f"tune/{trial}/error.txt").read_text()
            story.failures[trial] = int(re.findall(r"^Failure # (\d+)", told, re.MULTILINE)[-1])
        self._keep()
        self.wait("all workers are gone", lambda: list(self.machines.on) == ["cats-head"])
        self.sim.host_state(FAILING, "reconnect")
        self.raylora("cluster", "down", str(self.cluster), "--yes").done()
        story.times.append(("the cluster is down", time.time() - self.started))
        story.left = [machine["name"] for machine in self.sim.vms() if machine["name"].startswith("cats")]
        story.foreign.append([machine for machine in self.sim.vms() if machine["name"].startswith("user-")])

    def _keep(self) -> None:
        """Data and sweep are kept on the cluster, and the sweep's adapters are fetched, and its bundle."""
        began = time.time()
        commands = [
            self.raylora("snapshot", "create", "data", "first", "--cluster", str(self.cluster)),
            self.raylora("archive", "sweeps/run", "--cluster", str(self.cluster)),
            self.raylora("data", "pull", str(self.cluster), "sweeps/run", "back"),
        ]
        self.story.snapshot = [command.done() for command in commands[:2]]
        commands[2].done()
        self.raylora("data", "pull", str(self.cluster), "sweeps/run.tar", "back.tar").done()
        self.story.times.append(("kept and fetched, after", time.time() - began))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    from tests.families.causal_lm.tiny_lm import tiny_llama

    folder = tmp_path_factory.mktemp("cluster")
    (folder / "shared").mkdir()
    (folder / "data").mkdir()
    write_chats(folder / "data/chats.jsonl")
    tiny_llama(folder / "models/llama")
    with (
        hosts.network() as address,
        vcsim.start(hosts=HOSTS, vms=6, address=address) as sim,
        hosts.running(sim, folder) as machines,
    ):
        teller = Teller(sim, machines, folder)
        try:
            yield teller.tell()
        except BaseException:
            print(teller.story.times)
            print(machines.logs()[-20_000:])
            raise


def test_a_sweep_on_an_empty_cluster_gets_machines_of_both_cards(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print()
        for what, seconds in story.times:
            print(f"    {seconds:6.1f} s  {what}")
    assert story.types == {"rtx4090", "rtx3090"}
    assert len(set(story.before.values())) == TRIALS, "a machine for each trial"
    nodes = [line.split() for line in story.status.splitlines() if line.startswith("cats-")]
    assert len(nodes) == 1 + TRIALS
    assert all("joined" in words and "not" not in words for words in nodes), story.status


def test_a_laptop_that_shares_no_folder_sends_and_fetches(story: Story) -> None:
    """The sweep needs chats that only the laptop has, and what it made is there at the end, whole and usable."""
    assert "data/chats.jsonl: 1 files" in story.sent
    said = "\n".join(story.snapshot)
    assert "first: 1 files" in said and "sweeps/run.tar: " in said and "read back" in said
    back = story.folder / "back"
    assert (back / "report.html").stat().st_size > 10_000 and not (back / "tune").exists()
    adapter = Path(str(story.result["adapter"]))
    assert inspect(back / adapter.relative_to(story.folder / "shared/sweeps/run")).summary()
    kept = verify_archive(story.folder / "back.tar")
    assert {"journal.jsonl", "report.html"} <= kept.tree.files.keys()


def test_a_changed_file_is_followed_by_the_head_that_runs(story: Story) -> None:
    """With the first one's half hour of idle time no machine would have gone."""
    assert "the head follows the changed configuration now (idle_minutes)" in story.handed[0]
    assert story.left == []


def test_a_new_template_is_taken_while_the_sweep_runs(story: Story) -> None:
    assert "the head follows the changed configuration now (template); sweeps go on" in story.handed[1]
    assert story.templates == [{"1"}, {"2"}], "new machines are made from the new one, and the old ones have gone"


def test_machines_go_and_nobody_else_s_is_touched(story: Story) -> None:
    assert story.left == []
    assert story.foreign[0] == story.foreign[1]


def test_a_lost_machine_and_a_lost_host_cost_no_trial(story: Story) -> None:
    assert sorted(story.lost.values()) == ["drained", "host", "host", "machine"]
    joins = {event["trial"]: event["step"] for event in story.events if event["event"] == "join"}
    assert joins.keys() == story.before.keys()
    assert all(0 < step < STEPS for step in joins.values()), "they go on from a checkpoint"
    assert all(trial["status"] == "finished" for trial in story.result["trials"])


def test_a_drained_host_costs_no_step(story: Story) -> None:
    """Its trial is saved where it stands, between two reports, before its machine goes; Tune counts no failure."""
    trial = next(trial for trial, name in story.before.items() if story.lost[name] == "drained")
    (left,) = [event for event in story.events if event.get("why") == "its machine goes"]
    joined = next(event for event in story.events if event["event"] == "join" and event["trial"] == trial)
    assert (left["trial"], left["step"]) == (trial, joined["step"])
    assert f"{DRAINED}: no worker is left" in story.drained
    assert story.failures[trial] == 0 and sum(story.failures.values()) == TRIALS - 1


def test_the_result_is_that_of_an_undisturbed_trial(story: Story) -> None:
    assert len(story.references) == 2
    for trial, reference in story.references.items():
        assert reference[-1]["examples"] == 2 * STEPS
        assert story.histories[trial] == reference, "to the last bit"


def test_every_secret_lies_in_its_one_place_and_nowhere_else(story: Story) -> None:
    """Not in logs, reports, command lines, environments, the guestinfo after the first boot, or a file of others."""
    homes = {"token": (TOKEN_FILE, "/home/raylora/clusters/cats.json"), "password": (PASSWORD_FILE,)}
    assert [place for place in story.secrets if not place[1].endswith(homes[place[0]])] == []
    assert [place for place in story.secrets if place[2] & 0o007] == [], "others could read it there"
    places = {(name, Path(path).name) for name, path, _ in story.secrets}
    assert places == {("token", "token"), ("token", "cats.json"), ("password", "vcenter.password")}, "the search finds"
    assert len(story.guestinfo) > TRIALS and not any(story.guestinfo)


def test_nobody_gets_in_without_the_token(story: Story) -> None:
    assert len(story.strangers) == 12
    for way, end in story.strangers.items():
        if isinstance(end, int):
            assert end in (401, 403), way
        else:
            code, said = end
            assert code != 0 and re.search("InvalidAuthToken|Failed to connect", said), (way, code, said)
