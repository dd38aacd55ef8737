"""How `make gpu-check` runs its steps: each in a process of its own, within its own limit and the whole check's budget, its result on disk as it comes.

A step is cut at its limit, and whatever it started ends with it: this process adopts what its descendants leave behind
(PR_SET_CHILD_SUBREAPER), so even a detached supervisor is found below it.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Callable

# Exit codes; those that capstan has too mean the same.
PASSED, FAILED, USAGE, MISSING, DIFFERENT, INTERNAL, INTERRUPTED = 0, 1, 2, 4, 6, 70, 130
EXIT_CODES = """exit codes, that of the first step that failed:
  0  every step passed, or was skipped with its reason
  1  a run failed, did not end as it should, or a tool found an error
  2  usage
  4  a driver, library, device or program is missing or does not work
  6  numbers differ: losses of two devices or splits, sensors' values
 70  internal error of the check
130  interrupted; what was found so far is kept"""

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.02
END_PATIENCE_S = 10


class Refusal(Exception):
    """The check can't begin; `code` is its exit code."""

    def __init__(self, message, code=MISSING):
        super().__init__(message)
        self.code = code


class StepFailed(Exception):
    """A step can't go on; `code` is the check's exit code."""

    def __init__(self, message, code=None):
        super().__init__(message)
        self.code = code


class StepSkipped(Exception):
    """This machine lacks what the step, or what remains of it, needs."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of the check. It is not begun with less than `needs_s` of the budget left, and is cut at `limit_s`."""

    name: str
    title: str
    run: Callable
    needs_s: float
    limit_s: float
    code: int = FAILED


class Budget:
    """Wall-clock seconds from its making; `None`: without end."""

    def __init__(self, total_s, clock=time.monotonic):
        self.total_s, self.clock, self.began = total_s, clock, clock()

    def spent_s(self):
        return self.clock() - self.began

    def left_s(self):
        return float("inf") if self.total_s is None else max(0.0, self.total_s - self.spent_s())

    def excuse(self, needs_s):
        """Why what takes `needs_s` is not begun any more; None where it fits."""
        left = self.left_s()
        return None if left >= needs_s else f"it takes about {in_words(needs_s)}, and {in_words(left)} of the budget are left"


def parse_duration(text):
    """Seconds: `90`, `90s`, `9m`, `1.5h`, `1h30m`; None for `none`.

    Raises ValueError for anything else.
    """
    if text == "none":
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if not text or not parts:
        raise ValueError(f"{text} is no duration: write 9m, 90s, 1h30m or none")
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1)))


def in_words(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def chosen(steps, only=None, begin=None):
    """The steps that were asked for, in their own order. Raises Refusal for a name that does not exist."""
    names = [step.name for step in steps]
    for name in [*(only or ()), *([begin] if begin else [])]:
        if name not in names:
            raise Refusal(f"there is no step {name}; the steps are {', '.join(names)}", USAGE)
    if begin:
        steps = steps[names.index(begin):]
    return [step for step in steps if not only or step.name in only]


def exit_code(results):
    """That of the first step that failed."""
    return next((result["code"] for result in results if result["status"] == "failed"), PASSED)


class Report:
    """What a step found, written to its file with each addition, so that a step that is cut keeps what it had."""

    def __init__(self, path, step):
        self.path = path
        self.content = {
            "name": step.name, "title": step.title, "status": "cut", "line": "", "facts": {}, "tables": {}, "notes": [], "failures": [],
        }

    def fact(self, name, value):
        self.content["facts"][name] = value
        self.write()

    def row(self, table, **cells):
        """A row of a table; the cells' names are its columns. Also on the screen."""
        self.content["tables"].setdefault(table, []).append(cells)
        self.write()
        say("   " + ", ".join(f"{name} {shown(value)}" for name, value in cells.items()))

    def table(self, name, rows):
        """A whole table, which is too long for the screen."""
        self.content["tables"][name] = rows
        self.write()

    def note(self, text):
        self.content["notes"].append(text)
        self.write()
        say(f"   note: {text}")

    def fail(self, text, code=None):
        """A check that does not hold; the step goes on."""
        self.content["failures"].append({"text": text, "code": code})
        self.write()
        say(f"   FAILED: {text}")

    def line(self, text):
        """The step's result in one line."""
        self.content["line"] = text
        self.write()

    def write(self):
        write_whole(self.path, json.dumps(self.content, indent=1, default=str) + "\n")


def shown(value):
    """A table's cell for people: three digits of a fraction are enough."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value and not 1e-3 <= abs(value) < 1e9:
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def complaint(text):
    """What a program that failed said: its line that calls itself an error, else its last ones."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return errors[0] if errors else " | ".join(lines[-3:]) or "no message"


def say(text):
    print(f"gpu-check: {text}", flush=True)


def write_whole(path, text):
    """Writes a file so that no reader ever sees a part of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


class Runner:
    """Runs steps one after the other; `results` is what they found so far, in their order.

    `earlier` is what other steps had found in the same folder before, so that a check can go on where a budget ended; of the
    same `subject`, the programs and cards that are checked.
    """

    def __init__(self, folder, budget, every_step, subject):
        self.folder, self.budget, self.subject, self.results = folder, budget, subject, []
        self.paths = {step.name: folder / "steps" / f"{number:02}-{step.name}.json" for number, step in enumerate(every_step, 1)}
        self.earlier = {}
        (folder / "steps").mkdir(parents=True, exist_ok=True)
        adopt_descendants()

    def all_results(self):
        """Of this run and of earlier ones, in the order of all steps."""
        mine = {result["name"]: result for result in self.results}
        found = (mine.get(name) or self.earlier.get(name) for name in self.paths)
        return [result for result in found if result]

    def run(self, steps, context, after_each):
        """Runs the steps; `context(step, report)` gives each what it is called with, `after_each` hears after every one."""
        self.earlier = self.found_before({step.name for step in steps})
        for number, step in enumerate(steps, 1):
            say(f"{number} of {len(steps)}, {step.name}: {step.title}")
            path = self.paths[step.name]
            report = Report(path, step)
            began = time.monotonic()
            excuse = self.budget.excuse(step.needs_s)
            result = skipped(report, excuse) if excuse else self.run_one(step, report, context)
            result |= {"seconds": round(time.monotonic() - began, 2), "subject": self.subject}
            write_whole(path, json.dumps(result, indent=1) + "\n")
            self.results.append(result)
            say(f"   {verdict(result)} ({in_words(result['seconds'])})")
            after_each()

    def found_before(self, wanted):
        found = {name: json.loads(path.read_text()) for name, path in self.paths.items() if name not in wanted and path.exists()}
        return {name: {**result, "earlier": True} for name, result in found.items() if result.get("subject") == self.subject}

    def run_one(self, step, report, context):
        report.write()
        limit_s, is_budgets = min((step.limit_s, False), (self.budget.left_s(), True))
        child = fork(lambda: in_child(step, report, context))
        try:
            ended = wait_for(child, limit_s)
        finally:
            end_descendants()
        result = json.loads(report.path.read_text())
        if ended is None and is_budgets:
            result |= {"status": "skipped", "line": f"cut after {in_words(limit_s)}, at the end of the budget; what it had found is kept"}
        elif ended is None:
            add_failure(result, f"cut at its limit of {in_words(limit_s)}", step.code)
        elif result["status"] == "cut":
            add_failure(result, f"the step's process ended with {ended}", INTERNAL)
        if result["failures"]:
            result |= {"status": "failed", "code": next((f["code"] for f in result["failures"] if f["code"]), step.code)}
        return result


def add_failure(result, text, code):
    result["failures"].append({"text": text, "code": code})


def skipped(report, reason):
    report.content |= {"status": "skipped", "line": reason}
    return report.content


def verdict(result):
    return f"{result['status']}: {result['line']}" if result["line"] else result["status"]


def in_child(step, report, context):
    """The step itself, in its own process. What it says of itself stands in its file."""
    try:
        step.run(context(step, report))
        report.content["status"] = "passed"
    except StepSkipped as reason:
        report.content |= {"status": "skipped", "line": str(reason)}
    except StepFailed as failure:
        report.fail(str(failure), failure.code)
        report.content["status"] = "failed"
    except Exception as error:  # a fault of the check itself is a result too, with the place where it happened
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        report.fail(f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}", INTERNAL)
        report.content["status"] = "failed"
    report.write()


# Processes ----------------------------------------------------------------------------------------------------------------


def adopt_descendants():
    """Orphans among this process's descendants become its children, instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise Refusal(f"the kernel refuses a subreaper: {os.strerror(ctypes.get_errno())}", INTERNAL)


def fork(work):
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            sys.stdout.flush()
        os._exit(0)
    return child


def wait_for(child, limit_s):
    """The child's end in words; None where it is not over within `limit_s`."""
    until = time.monotonic() + limit_s
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return f"exit code {code}" if code >= 0 else f"signal {-code}"
        if time.monotonic() >= until:
            return None
        time.sleep(POLL_S)


def end_descendants():
    """Kills every process below this one, and waits until they are gone."""
    until = time.monotonic() + END_PATIENCE_S
    while time.monotonic() < until:
        left = descendants(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            return
        time.sleep(POLL_S)


def descendants(root):
    """The processes below `root` that have not ended; those that have and were not waited for don't count."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
                parents[int(entry.name)] = (int(parent), state)
    found, fresh = set(), {root}
    while fresh:
        fresh = {pid for pid, (parent, _) in parents.items() if parent in fresh} - found
        found |= fresh
    return {pid for pid in found if parents[pid][1] != "Z"}
