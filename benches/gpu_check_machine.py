"""The steps of `make gpu-check` that look at the machine: what is installed, streams and NCCL, sensors."""

import json
import os
import shutil

from gpu_check_place import doctor, nvidia_smi
from gpu_check_runner import DIFFERENT, MISSING, StepFailed, StepSkipped, complaint

CUDA_LIBRARIES = ("libcuda.", "libcudart", "libnccl", "libnvrtc", "libcudnn", "libcublas", "libnvidia-ml", "libcupti")
LIBRARIES = ("CUDA", "NCCL", "NVRTC")  # as doctor names them
ENVIRONMENT = ("LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_HOME", "NCCL_")
LITTLE_SHARED_MEMORY = 256 * 2**20  # of /dev/shm: NCCL's rings between processes without peer access


def machine(ctx):
    """Driver, loader's cache, environment, and what doctor says: CUDA and NCCL load, every card is seen."""
    place, report = ctx.place, ctx.report
    loader_facts(place, report)
    smi_facts(place, report)
    said, code = doctor(place)
    report.fact("doctor", said)
    found = {}
    for check in said["checks"]:
        report.row("doctor", check=check["name"], health=check["health"], found=check["found"])
        found[check["name"]] = check
        if check["health"] == "bad":
            report.fail(f"{check['name']}: {check['found']}")
    if said["machine"]["gpus"] and found.get("CUDA", {}).get("health") != "good":
        report.fail(f"CUDA: {found.get('CUDA', found['worker'])['found']}")
    if not said["machine"]["gpus"]:
        report.fail(f"no usable card: {said['machine'].get('no_gpus_because')}")
    if code != 0:
        report.fail(f"doctor ended with exit code {code}")
    names = ", ".join(sorted({gpu["name"] for gpu in said["machine"]["gpus"]})) or "no card"
    report.line(f"{len(said['machine']['gpus'])} x {names}; " + ", ".join(f"{name} {found[name]['found']}" for name in LIBRARIES if name in found))


def loader_facts(place, report):
    cache = place.run([shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin") or "ldconfig", "-p"]).stdout
    known = [line.strip() for line in cache.splitlines() if line.strip().startswith(CUDA_LIBRARIES)]
    report.fact("loader_cache", known)
    report.fact("environment", {name: value for name, value in place.environment.items() if name.startswith(ENVIRONMENT)})
    shared = os.statvfs("/dev/shm")
    report.fact("dev_shm_bytes", shared.f_frsize * shared.f_blocks)
    if shared.f_frsize * shared.f_blocks < LITTLE_SHARED_MEMORY:
        report.note("/dev/shm is small, as in a container without --shm-size or --ipc=host: NCCL without peer access may fail")


def smi_facts(place, report):
    try:
        nvidia_smi(place, "--list-gpus")
    except StepSkipped as reason:
        report.note(str(reason))
        return
    for name, arguments in (("nvidia-smi", ()), ("nvidia-smi-q", ("-q",)), ("topology", ("topo", "--matrix"))):
        try:
            (logs_of(place) / f"{name}.txt").write_text(nvidia_smi(place, *arguments))
        except StepFailed as problem:
            report.note(str(problem))


def logs_of(place):
    folder = place.results / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def self_test(ctx):
    """The worker's own test of streams, events and a world of one over NCCL, without a run around it."""
    place, report = ctx.place, ctx.report
    said = place.run([place.worker, "self-test"], 90, env={**place.environment, "NCCL_SOCKET_IFNAME": "lo"})
    results = [line.partition(": ") for line in said.stdout.splitlines()]
    for verdict, _, what in results:
        report.row("self-test", test=what, passed=verdict == "ok")
        if verdict != "ok":
            report.fail(what)
    if said.returncode != 0 and not report.content["failures"]:
        raise StepFailed(f"capstan-worker self-test ended with exit code {said.returncode}: {complaint(said.stderr)}")
    if not results:
        raise StepFailed("capstan-worker self-test says nothing")
    report.line(f"{sum(verdict == 'ok' for verdict, *_ in results)} of {len(results)} tests of the worker pass")


# Sensors ------------------------------------------------------------------------------------------------------------------

# nvidia-smi's field, capstan's as a function of a card, and how far apart the two may be: a share of nvidia-smi's, and so much more.
SENSORS = (
    ("memory.total", lambda card: mebibytes(card.get("memory_total_bytes")), 0.02, 0),
    ("memory.used", lambda card: mebibytes(card.get("memory_used_bytes")), 0.05, 1024),
    ("power.draw", lambda card: card.get("power_w"), 0.3, 20),
    ("power.limit", lambda card: card.get("power_limit_w"), 0, 1),
    ("temperature.gpu", lambda card: card.get("temperature_c"), 0, 5),
    ("temperature.memory", lambda card: card.get("memory_temperature_c"), 0, 5),
    ("clocks.sm", lambda card: card.get("sm_clock_mhz"), 0.5, 300),
    ("pcie.link.width.current", lambda card: card.get("pcie_width"), 0, 0),
    ("fan.speed", lambda card: None if card.get("fan") is None else 100 * card["fan"], 0, 10),
)
SWEEP_LOOKS, SIMULATED_LOOKS, SWEEP_LIMIT_MS = 30, 5, 5


def sensors(ctx):
    """What `capstan top` and nvidia-smi say of each card at about the same time, and what a look costs."""
    place, report = ctx.place, ctx.report
    fields = [field for field, *_ in SENSORS]
    nvidia_smi(place, "--list-gpus")  # skips the step before it costs anything
    known = {card["uuid"]: card for card in looks(place, 3)[-1].get("gpus", [])}
    found = nvidia_smi(place, f"--query-gpu=uuid,{','.join(fields)}", "--format=csv,noheader,nounits")
    for line in found.strip().splitlines():
        uuid, *values = (value.strip() for value in line.split(","))
        if uuid not in known:
            report.fail(f"capstan does not see {uuid}", MISSING)
            continue
        for (field, of_card, share, more), value in zip(SENSORS, values):
            theirs, ours = as_number(value), of_card(known[uuid])
            holds = alike(theirs, ours, share, more)
            report.row("sensors", card=uuid[:12], sensor=field, nvidia_smi=theirs, capstan=ours, alike=holds)
            if not holds:
                report.fail(f"{uuid[:12]} {field}: nvidia-smi {theirs}, capstan {ours}", DIFFERENT)
    cost_ms = look_cost_ms(place) / max(1, len(known))
    report.fact("look_ms_of_a_core_per_card", cost_ms)
    if cost_ms > SWEEP_LIMIT_MS:
        report.fail(f"a look takes {cost_ms:.1f} ms of a core per card, more than {SWEEP_LIMIT_MS}")
    report.line(f"{len(known)} cards, a look takes {cost_ms:.2f} ms of a core per card")


def alike(theirs, ours, share, more):
    """Whether two values of a sensor agree; both may be unknown, but not one of them."""
    if theirs is None or ours is None:
        return theirs is ours
    return abs(theirs - ours) <= share * abs(theirs) + more


def looks(place, count):
    said = place.run([place.capstan, "top", "--json", "--every-s", "1", "--count", count], 60 + count)
    if said.returncode != 0:
        raise StepFailed(f"capstan top ended with exit code {said.returncode}: {complaint(said.stderr)}")
    return [json.loads(line) for line in said.stdout.splitlines()]


def look_cost_ms(place):
    """Processor time of a look at all cards: of many looks less that of a few, so that opening the driver does not count."""
    more = SIMULATED_LOOKS if place.simulated else SWEEP_LOOKS
    few, many = (processor_s(lambda n=n: looks(place, n)) for n in (2, 2 + more))
    return 1e3 * (many - few) / more


def processor_s(work):
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def mebibytes(count):
    return None if count is None else count / 2**20


def as_number(text):
    try:
        return float(text)
    except ValueError:
        return None  # [N/A]
