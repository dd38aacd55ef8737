"""Tests of `make gpu-check` itself, without a card and without PyTorch: python3 -m unittest discover -s benches -p gpu_check_tests.py"""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import gpu_bundle  # noqa: E402
import gpu_check  # noqa: E402
import gpu_check_machine as machine  # noqa: E402
import gpu_check_page as page  # noqa: E402
import gpu_check_place as place  # noqa: E402
import gpu_check_runner as runner  # noqa: E402
import gpu_check_speed as speed  # noqa: E402
import gpu_check_training as training  # noqa: E402
from gpu_check_runner import Budget, Refusal, Runner, Step, StepFailed, StepSkipped  # noqa: E402


def scratch(test):
    """A folder that vanishes with the test."""
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    return Path(folder.name)


class Options(unittest.TestCase):
    def test_durations(self):
        for text, seconds in (("90", 90), ("90s", 90), ("9m", 540), ("1h30m", 5400), ("1.5h", 5400), ("none", None)):
            self.assertEqual(runner.parse_duration(text), seconds, text)
        for text in ("", "9 m", "m", "-3", "9x", "30s9m"):
            with self.assertRaises(ValueError, msg=text):
                runner.parse_duration(text)

    def test_steps_are_chosen_by_name_and_keep_their_order(self):
        names = lambda *arguments: [step.name for step in runner.chosen(gpu_check.STEPS, *arguments)]  # noqa: E731
        self.assertEqual(names(["parity", "machine"]), ["machine", "parity"])
        self.assertEqual(names(None, "more-rounds"), ["more-rounds"])
        self.assertEqual(len(names()), len(gpu_check.STEPS))
        with self.assertRaises(Refusal) as refused:
            names(["parity", "nothing"])
        self.assertEqual(refused.exception.code, runner.USAGE)

    def test_the_first_ten_steps_are_those_that_tell_most(self):
        names = [step.name for step in gpu_check.STEPS]
        wanted = ["machine", "self-test", "hello-fp32", "hello-bf16", "gpt2-124m", "kernels", "parity", "sanitizer", "memory", "resume"]
        self.assertEqual(names[:10], wanted)
        self.assertEqual(len(set(names)), len(names))
        for step in gpu_check.STEPS:
            self.assertLessEqual(step.needs_s, step.limit_s, step.name)

    def test_another_torch_is_not_the_right_one(self):
        for version in ("2.11.0", "2.11.1", "2.11.0+cpu", "2.11.0+cu130"):
            self.assertTrue(place.is_right_torch(version), version)
        for version in ("2.1.1", "2.12.0", "2.110.0", "12.11.0", "2.11"):
            self.assertFalse(place.is_right_torch(version), version)


class Steps(unittest.TestCase):
    """Steps in processes of their own."""

    def results(self, *steps, budget=None):
        """What the steps gave, and the folder of their results."""
        folder = scratch(self)
        made = Runner(folder, Budget(budget), steps, "these programs")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made.run(steps, lambda step, report: SimpleNamespace(step=step, report=report), lambda: None)
        return made.results, folder

    def step(self, work, needs_s=0, limit_s=30, **options):
        return Step(options.pop("name", "step"), "a step", work, needs_s, limit_s, **options)

    def test_results_by_how_a_step_ends(self):
        def fails(_):
            raise StepFailed("not so", 4)

        def fails_by_its_own_code(ctx):
            ctx.report.fail("numbers differ")
            ctx.report.line("one of two")

        def skips(_):
            raise StepSkipped("one card")

        def dies(_):
            os.abort()

        works = (lambda ctx: ctx.report.line("good"), fails, fails_by_its_own_code, skips, lambda _: [][1], dies)
        steps = [self.step(work, name=str(number), code=6) for number, work in enumerate(works)]
        (good, failed, differs, skipped, broken, dead), folder = self.results(*steps)
        self.assertEqual([good["status"], good["line"]], ["passed", "good"])
        self.assertEqual([failed["status"], failed["code"], failed["failures"][0]["text"]], ["failed", 4, "not so"])
        self.assertEqual([differs["status"], differs["code"], differs["line"]], ["failed", 6, "one of two"])
        self.assertEqual([skipped["status"], skipped["line"]], ["skipped", "one card"])
        self.assertEqual([broken["status"], broken["code"]], ["failed", runner.INTERNAL])
        self.assertEqual([dead["status"], dead["code"]], ["failed", runner.INTERNAL])
        self.assertIn("signal 6", dead["failures"][0]["text"])
        self.assertEqual(runner.exit_code([good, skipped]), 0)
        self.assertEqual(runner.exit_code([skipped, differs, failed]), 6)
        self.assertEqual(json.loads((folder / "steps" / "01-0.json").read_text())["line"], "good")

    def test_a_step_is_cut_at_its_limit_with_all_that_it_started(self):
        def hangs(ctx):
            detached = subprocess.Popen(["sh", "-c", "setsid sleep 100 & wait"], start_new_session=True)
            ctx.report.row("found", pid=detached.pid)
            time.sleep(100)

        (result,), _ = self.results(self.step(hangs, limit_s=0.7))
        self.assertEqual(result["status"], "failed")
        self.assertIn("cut at its limit", result["failures"][0]["text"])
        self.assertEqual(len(result["tables"]["found"]), 1, "what was found before stays")
        self.assertFalse(runner.descendants(os.getpid()), "nothing that it started lives on")
        self.assertFalse(Path(f"/proc/{result['tables']['found'][0]['pid']}").exists())

    def test_the_budget_skips_what_does_not_fit_and_cuts_what_takes_longer(self):
        steps = (
            self.step(lambda _: time.sleep(100), name="long", limit_s=200), self.step(lambda _: None, name="large", needs_s=60),
            self.step(lambda ctx: ctx.report.line("small"), name="small"),
        )
        (long, large, small), _ = self.results(*steps, budget=0.7)
        self.assertEqual([long["status"], large["status"]], ["skipped", "skipped"])
        self.assertIn("end of the budget", long["line"])
        self.assertIn("of the budget are left", large["line"])
        self.assertEqual(small["status"], "skipped")
        (large, small), _ = self.results(*steps[1:], budget=20)
        self.assertEqual([large["status"], small["status"]], ["skipped", "passed"])

    def test_a_check_goes_on_where_another_ended(self):
        steps = [self.step(lambda ctx: ctx.report.line(ctx.step.name), name=name) for name in ("one", "two", "three")]
        folder = scratch(self)

        def lines(subject, *chosen):
            made = Runner(folder, Budget(None), steps, subject)
            with contextlib.redirect_stdout(io.StringIO()):
                made.run(chosen, lambda step, report: SimpleNamespace(step=step, report=report), lambda: None)
            return [(result["line"], result.get("earlier", False)) for result in made.all_results()]

        self.assertEqual(lines("a build", steps[0], steps[2]), [("one", False), ("three", False)])
        self.assertEqual(lines("a build", steps[1]), [("one", True), ("two", False), ("three", True)])
        self.assertEqual(lines("another build", steps[1]), [("two", False)])

    def test_a_failure_found_before_the_budget_cut_stays_a_failure(self):
        def fails_and_hangs(ctx):
            ctx.report.fail("numbers differ", 6)
            time.sleep(100)

        (result,), _ = self.results(self.step(fails_and_hangs), budget=0.7)
        self.assertEqual([result["status"], result["code"]], ["failed", 6])


class Numbers(unittest.TestCase):
    def test_losses_are_compared_at_the_first_step_and_over_all(self):
        base = [5.0, 4.0, 3.0]
        self.assertTrue(training.holds(training.differences(base, base)))
        self.assertTrue(training.holds(training.differences([5.0, 4.0, 3.0002], base)))
        for other in ([5.0001, 4.0, 3.0], [5.0, 4.0, 3.0004], [5.0, math.nan, 3.0], [5.0, 4.0, math.inf]):
            self.assertFalse(training.holds(training.differences(other, base)), other)
        for missing in ([], [5.0, 4.0]):
            with self.assertRaises(StepFailed):
                training.differences(missing, base)

    def test_ratios_are_taken_within_a_round(self):
        row = lambda number, side, rate: {"round": number, "side": side, "tokens_per_sec": rate}  # noqa: E731
        rows = [row(1, "capstan", 30.0), row(1, "eager", 20.0), row(2, "capstan (simulated)", 10.0), row(2, "eager (simulated)", 20.0),
                row(2, "compiled", 5.0), row(3, "compiled", 1.0)]
        self.assertEqual(speed.ratios(rows), {"eager": [1.5, 0.5], "compiled": [2.0]})

    def test_sensors_agree_or_are_both_unknown(self):
        self.assertTrue(machine.alike(None, None, 0, 0))
        self.assertTrue(machine.alike(100.0, 104.0, 0.0, 5))
        for theirs, ours in ((None, 3.0), (3.0, None), (100.0, 106.0)):
            self.assertFalse(machine.alike(theirs, ours, 0.0, 5))

    def test_a_sample_of_nvidia_smi(self):
        _, watts, memory = speed.parse_sample("2026/01/02 03:04:05.678, 338.00, 12288")
        self.assertEqual([watts, memory], [338.0, 12 * 2**30])
        self.assertIsNone(speed.parse_sample("2026/01/02 03:04:05.678, [N/A], 12288")[1])

    def test_tokens_are_words_by_how_often_they_stand(self):
        self.assertEqual(list(speed.tokens_of("a a, a b", 50)), [1, 0, 2, 0, 3])
        self.assertEqual(max(speed.tokens_of("a b c d e f", 3)), 2)

    def test_micro_batches_fit_the_card(self):
        for job in speed.JOBS.values():
            sizes = [speed.micro_batch(job, gib * 2**30) for gib in (8, 24, 48, 80)]
            self.assertEqual(sizes, sorted(sizes))


class Page(unittest.TestCase):
    def test_a_page_says_all_and_runs_nothing_of_it(self):
        step = {
            "name": "parity", "title": "two <ranks>", "status": "failed", "seconds": 3.2, "line": "4 of 5", "notes": ["a & b"],
            "failures": [{"text": "dp=2: <script>", "code": 6}, {"text": "tp=2", "code": 6}], "facts": {},
            "tables": {"splits": [{"run": "dp=2", "at_step_1": 1e-7, "same": False}, {"run": "tp=2", "more": None}]},
        }
        summary = {
            "date": "2026-01-02", "card": "a card", "simulated": True, "exit_code": 6, "counts": {"passed": 0, "failed": 1, "skipped": 0},
            "seconds": 3.2, "budget": "9 min", "torch": "2.11.0", "capstan": "capstan 0.1.0", "commit": "abc", "steps": [step],
            "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**30, "system": "Linux"},
        }
        text = page.as_html(summary)
        for part in ("SIMULATED", "dp=2: &lt;script&gt; (and 1 more)", "two &lt;ranks&gt;", "a &amp; b", "1.0e-07", "n/a", "exit code 6"):
            self.assertIn(part, text)
        for part in ("<script", "http:", "https:", "src="):
            self.assertNotIn(part, text)


class Bundle(unittest.TestCase):
    def test_programs_look_for_libraries_beside_themselves_only(self):
        program = scratch(self) / "program"
        build = ["cc", "-x", "c", "/dev/null", "-shared", "-o", program, "-Wl,-rpath,$ORIGIN/../lib:/somewhere/else/lib:$ORIGIN/more"]
        try:
            subprocess.run(build, check=True, capture_output=True)
        except OSError:
            self.skipTest("no C compiler")
        before = program.read_bytes()
        after = gpu_bundle.only_relative_paths(before)
        self.assertIn(b"/somewhere/else", before)
        self.assertNotIn(b"/somewhere/else", after)
        start, end = gpu_bundle.runpath(after)
        self.assertEqual(after[start:end], b"$ORIGIN/../lib:$ORIGIN/more")
        self.assertEqual(len(after), len(before))
        with self.assertRaises(ValueError):
            gpu_bundle.only_relative_paths(b"#!/bin/sh\n")

    def test_a_bundle_that_is_too_large_is_refused(self):
        folder = scratch(self)
        for name in gpu_bundle.PROGRAMS:
            (folder / name).write_bytes(Path("/bin/true").read_bytes())
        try:
            gpu_bundle.make(folder, folder / "bundle")
            with self.assertRaisesRegex(ValueError, "more than 0.1"):
                gpu_bundle.make(folder, folder / "bundle", 0.1)
        except FileNotFoundError:
            self.skipTest("no strip")

    def test_the_bundle_has_every_module_of_the_check(self):
        benches = Path(__file__).resolve().parent
        wanted = {f"benches/{path.name}" for path in benches.glob("gpu_check*.py") if path.name != Path(__file__).name}
        self.assertLessEqual(wanted, set(gpu_bundle.FILES))
        for job in speed.JOBS.values():
            self.assertIn(job.config, gpu_bundle.FILES)


if __name__ == "__main__":
    unittest.main()
