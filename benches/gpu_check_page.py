"""What `make gpu-check` found, as one page that needs nothing else: verdict, machine, and each step with its tables."""

from html import escape

from gpu_check_runner import in_words, shown

STYLE = """
:root { --ink: #1b1f24; --dim: #616a75; --line: #d5dae0; --back: #ffffff; --shade: #f4f6f8; --good: #1a7f37; --bad: #c62828; --idle: #8a6100; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #98a2ad; --line: #363d46; --back: #14171a; --shade: #1d2126; --good: #56c271; --bad: #ff7b72; --idle: #d9a53a; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .2rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: .85rem; color: var(--dim); margin: 1rem 0 .2rem; font-weight: 600; }
p { margin: .2rem 0; }
.dim { color: var(--dim); }
.passed { color: var(--good); } .failed { color: var(--bad); } .skipped { color: var(--idle); }
.status { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); max-width: 44rem; overflow-wrap: anywhere; }
th { color: var(--dim); font-weight: 600; white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
a { color: inherit; }
"""
LONGEST_CELL = 300


def as_html(summary):
    """The page of a summary, a string."""
    verdict = "failed" if summary["exit_code"] else "passed"
    counts = ", ".join(f"{summary['counts'][name]} {name}" for name in ("passed", "failed", "skipped"))
    title = f"capstan on {summary['card']}"
    parts = [
        f'<h1>{escape(title)} <span class="{verdict}">{verdict}</span></h1>',
        f"<p>{counts}; {in_words(summary['seconds'])}, budget {escape(summary['budget'])}; exit code {summary['exit_code']}</p>",
        f'<p class="dim">{escape(setting(summary))}</p>',
        overview(summary["steps"]),
        *(section(step) for step in summary["steps"]),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def setting(summary):
    machine = summary["machine"]
    parts = [
        summary["date"], f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB", machine["system"],
        f"PyTorch {summary['torch']}", f"{summary['capstan']} at {summary['commit']}",
    ]
    if summary["simulated"]:
        parts.append("SIMULATED: stand-ins for CUDA, NCCL and NVML, so no figure here is a card's")
    return " · ".join(parts)


def overview(steps):
    rows = [
        {"step": step["name"] + (" (earlier)" if step.get("earlier") else ""), "": step["status"], "seconds": step["seconds"], "result": result_line(step)}
        for step in steps
    ]
    return table(rows, status_column="")


def result_line(step):
    first, *more = [failure["text"] for failure in step["failures"]] or [step["line"]]
    return first + (f" (and {len(more)} more)" if more else "")


def section(step):
    parts = [f'<h2 id="{escape(step["name"])}">{escape(step["name"])} <span class="{step["status"]}">{step["status"]}</span></h2>']
    parts.append(f'<p class="dim">{escape(step["title"])}; {in_words(step["seconds"])}</p>')
    parts += [f'<p class="failed">{escape(failure["text"])}</p>' for failure in step["failures"]]
    if step["line"]:
        parts.append(f"<p>{escape(step['line'])}</p>")
    parts += [f"<p class=dim>{escape(note)}</p>" for note in step["notes"]]
    for name, rows in step["tables"].items():
        parts += [f"<h3>{escape(name)}</h3>", table(rows)]
    return "\n".join(parts)


def table(rows, status_column=None):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(heading(column, any(is_number(row.get(column)) for row in rows)) for column in columns)
    body = "".join(f"<tr>{''.join(cell(row.get(column), column == status_column) for column in columns)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def heading(column, is_of_numbers):
    name = escape(column.replace("_", " "))
    return f'<th class="number">{name}</th>' if is_of_numbers else f"<th>{name}</th>"


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def cell(value, is_status):
    text = shown(value)
    text = escape(text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + "…")
    if is_status:
        return f'<td class="status {text}">{text}</td>'
    return f'<td class="number">{text}</td>' if is_number(value) else f"<td>{text}</td>"
