#!/usr/bin/env python3
"""Makes the tables in ../performance.md and the charts in charts/ of what results/ holds.

With --check it changes nothing, and fails if the tables are not those of the results.
"""

import json
import pathlib
import re
import sys
from html import escape

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "performance.md"
RESULTS = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))}

COLOURS = {"fanfare": "#b5352b", "limit": "#8a8a8a", "bare": "#b9b9b9", "nchan": "#3d7a4f", "nats": "#2f6690"}


def servers(name):
    """The servers of a benchmark, by name: their medians."""
    return {server["name"]: server["median"] for server in RESULTS[name]["servers"]}


def shown(value, decimals=0):
    if value is None:
        return "–"
    if decimals == 0 and value >= 10_000_000:
        return f"{value / 1e6:.1f} M"
    if decimals == 0 and value >= 1_000_000:
        return f"{value / 1e6:.2f} M"
    if decimals == 0 and value >= 10_000:
        return f"{value / 1e3:.0f} k"
    return f"{value:,.{decimals}f}".replace(",", " ")


# A table: its rows are benchmarks, its columns servers; one figure, and ours by the others'.
TABLES = {
    "fan-out": (
        "deliveries_per_s", 0, "cpu_us_per_delivery",
        [("fan-out-1", "1 client"), ("fan-out-100", "100 clients"), ("fan-out-1000", "1,000 clients"),
         ("fan-out-5000", "5,000 clients"), ("fan-out-4k", "100 clients × 4 KiB"),
         ("fan-out-types", "1,000 clients on 100 types")],
    ),
    "cpu": ("cpu_us_per_delivery", 2, None, [("rate-20", "20 events/s × 1,000 clients"), ("rate-200", "200 events/s × 100 clients")]),
    "p50": ("latency_p50_ms", 2, None, [("rate-20", "20 events/s × 1,000 clients"), ("rate-200", "200 events/s × 100 clients")]),
    "p99": ("latency_p99_ms", 2, None, [("rate-20", "20 events/s × 1,000 clients"), ("rate-200", "200 events/s × 100 clients")]),
    "ingest": (
        "posts_per_s", 0, "cpu_us_per_post",
        [("ingest", "16 connections × 4 requests"), ("ingest-single", "64 × 1"), ("ingest-deep", "16 × 16")],
    ),
    "durability": (
        "posts_per_s", 0, "cpu_us_per_post",
        [("ingest-memory", "`memory`"), ("ingest-written", "`written`"), ("ingest-synced", "`synced`")],
    ),
    "idle": ("memory_bytes_per_session", 0, None, [("idle", "plain"), ("idle-tls", "TLS")]),
    "connects": ("connects_per_s", 0, "cpu_us_per_connect", [("idle", "5,000, 128 at a time"), ("storm", "1,000 at once, again and again")]),
    "growth": (
        "deliveries_per_s", 0, "cpu_us_per_delivery",
        [("sessions-10", "10 clients"), ("sessions-50", "50"), ("fan-out-100", "100"), ("sessions-500", "500"),
         ("fan-out-1000", "1,000"), ("sessions-2000", "2,000"), ("fan-out-5000", "5,000"),
         ("types-10", "1,000 on 10 types"), ("fan-out-types", "1,000 on 100 types"), ("types-1000", "1,000 on 1,000 types"),
         ("size-64", "100 × 64 bytes"), ("size-1024", "100 × 1 KiB"), ("fan-out-4k", "100 × 4 KiB"), ("size-16384", "100 × 16 KiB"),
         ("workers-1", "1,000, 1 worker"), ("workers-2", "1,000, 2 workers"), ("workers-4", "1,000, 4 workers")],
    ),
}


def spread(name, server, key):
    found = next(it for it in RESULTS[name]["servers"] if it["name"] == server)
    least, most = found["spread"].get(key, (None, None))
    return None if least is None else (least, most)


def table(key, decimals, beside, rows):
    """A Markdown table."""
    rows = [(name, title) for name, title in rows if name in RESULTS]
    names = []
    for name, _ in rows:
        names += [server for server in servers(name) if server not in names]
    others = [name for name in names if name != "fanfare"]
    head = ["", *names, *(f"÷ {name}" for name in others), *(["least–most"] if "fanfare" in names else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, title in rows:
        medians = servers(name)
        cells = [title]
        for server in names:
            figures = medians.get(server, {})
            cell = shown(figures.get(key), decimals)
            if beside and beside in figures:
                cell += f" ({figures[beside]:.2f})"
            cells.append(cell)
        ours = medians["fanfare"].get(key)
        for other in others:
            theirs = medians.get(other, {}).get(key)
            cells.append(f"**{ours / theirs:.2f}**" if ours and theirs and theirs > 0 else "")
        between = spread(name, "fanfare", key)
        cells.append("–".join(shown(value, decimals) for value in between) if between else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Svg:
    """A plain chart."""

    def __init__(self, title, width=760, height=340):
        self.width, self.height, self.parts = width, height, []
        self.text(16, 26, title, size=15, weight="bold")

    def text(self, x, y, text, size=11, anchor="start", colour="#222", weight="normal"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}" font-weight="{weight}">{escape(text)}</text>'
        )

    def rect(self, x, y, width, height, colour):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
        )

    def line(self, points, colour, width=1.0):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def write(self, name):
        folder = HERE / "charts"
        folder.mkdir(exist_ok=True)
        body = "\n".join(self.parts)
        (folder / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="sans-serif">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
        )


def bars(name, title, groups, key, relative_to=None, unit=""):
    """Bars side by side: a group a benchmark, a bar a server."""
    groups = [(benchmark, label) for benchmark, label in groups if benchmark in RESULTS]
    if not groups:
        return
    names = [server for server in COLOURS if any(server in servers(it) for it, _ in groups) and server != relative_to]
    value = {}
    for benchmark, _ in groups:
        medians = servers(benchmark)
        base = medians.get(relative_to, {}).get(key) if relative_to else 1
        for server in names:
            figure = medians.get(server, {}).get(key)
            value[benchmark, server] = figure / base if figure is not None and base else None
    top = max((it for it in value.values() if it is not None), default=0) * 1.1
    if top <= 0:
        return
    svg = Svg(title)
    left, bottom, height = 56, 286, 220
    step = (svg.width - left - 20) / len(groups)
    for mark in range(5):
        y = bottom - height * mark / 4
        svg.line([(left, y), (svg.width - 20, y)], "#ddd")
        tick = top * mark / 4
        svg.text(left - 6, y + 4, f"{tick:.2f}" if top < 10 else shown(tick), anchor="end", size=10)
    for at, (benchmark, label) in enumerate(groups):
        width = step * 0.8 / len(names)
        for place, server in enumerate(names):
            figure = value[benchmark, server]
            if figure is None:
                continue
            x, tall = left + step * at + step * 0.1 + width * place, height * max(figure, 0) / top
            svg.rect(x, bottom - tall, width - 2, tall, COLOURS[server])
            svg.text(x + width / 2 - 1, bottom - tall - 4, f"{figure:.2f}" if top < 10 else shown(figure), size=9, anchor="middle")
        svg.text(left + step * (at + 0.5), bottom + 16, label, anchor="middle")
    for place, server in enumerate(names):
        svg.rect(left + 110 * place, 312, 11, 11, COLOURS[server])
        svg.text(left + 110 * place + 16, 322, server)
    svg.text(svg.width - 20, 322, unit, anchor="end", colour="#666")
    svg.write(name)


def curve(name, title, points, key, unit):
    """One line over places that are not numbers of one scale."""
    points = [(servers(it)["fanfare"].get(key), label) for it, label in points if it in RESULTS]
    points = [(value, label) for value, label in points if value is not None]
    if len(points) < 2:
        return
    top = max(value for value, _ in points) * 1.1
    svg = Svg(title)
    left, bottom, height = 56, 286, 220
    step = (svg.width - left - 60) / (len(points) - 1)
    for mark in range(5):
        y = bottom - height * mark / 4
        svg.line([(left, y), (svg.width - 20, y)], "#ddd")
        tick = top * mark / 4
        svg.text(left - 6, y + 4, f"{tick:.2f}" if top < 10 else shown(tick), anchor="end", size=10)
    places = [(left + 20 + step * at, bottom - height * value / top) for at, (value, _) in enumerate(points)]
    svg.line(places, COLOURS["fanfare"], 2.0)
    for (x, y), (value, label) in zip(places, points):
        svg.rect(x - 3, y - 3, 6, 6, COLOURS["fanfare"])
        svg.text(x, y - 8, f"{value:.2f}" if top < 10 else shown(value), anchor="middle", size=10)
        svg.text(x, bottom + 16, label, anchor="middle")
    svg.text(svg.width - 20, 322, unit, anchor="end", colour="#666")
    svg.write(name)


def measured_on():
    """Which machines, kernels and versions the results are of."""
    lines = set()
    for result in RESULTS.values():
        machine = result["machine"]
        lines.add(f'{machine["cores"]} cores, {machine["cpu"]}, {machine["kernel"]}, fanfare {result["version"]}')
    return "\n".join(f"- {line}" for line in sorted(lines))


def faults():
    """What was lost, refused or disturbed: a table would not show it."""
    lines = []
    for name, result in RESULTS.items():
        lines += [f"- `{name}`: {fault}" for fault in result["faults"]]
        rounds = [(server["name"], it) for server in result["servers"] for it in server["rounds"]]
        disturbed = sum(1 for _, it in rounds if it["is_disturbed"])
        if disturbed:
            lines.append(f"- `{name}`: other processes took much of the machine in {disturbed} of {len(rounds)} rounds")
    return "\n".join(lines) or "Nothing was lost or refused, and no round was disturbed by other processes."


def fill(page):
    """The page with each marked table made anew."""
    made_of = {name: table(*what) for name, what in TABLES.items()}
    made_of |= {"machine": measured_on(), "faults": faults()}
    for name, text in made_of.items():
        made = f"<!-- table {name} -->\n{text}\n<!-- end -->"
        page = re.sub(rf"<!-- table {name} -->\n.*?<!-- end -->", lambda _: made, page, flags=re.S)
    return page


def main():
    page = PAGE.read_text()
    filled = fill(page)
    if "--check" in sys.argv:
        sys.exit("the tables of docs/performance.md are not those of the results" if filled != page else 0)
    PAGE.write_text(filled)
    fan_out = [("fan-out-100", "100"), ("fan-out-1000", "1,000"), ("fan-out-5000", "5,000"),
               ("fan-out-4k", "100 × 4 KiB"), ("fan-out-types", "1,000 on 100 types")]
    bars("fan-out", "Fan-out at full speed, by the physical limit of the same run", fan_out, "deliveries_per_s",
         relative_to="limit", unit="1 = one process, bare sockets, no features")
    bars("cpu", "Server CPU a delivery at a fixed rate", [("rate-20", "20/s × 1,000"), ("rate-200", "200/s × 100")],
         "cpu_us_per_delivery", unit="microseconds")
    bars("latency", "99th percentile of the latency, from when an event was due",
         [("rate-20", "20/s × 1,000"), ("rate-200", "200/s × 100")], "latency_p99_ms", unit="milliseconds")
    bars("ingest", "Acknowledged posts", [("ingest", "16 × 4"), ("ingest-single", "64 × 1")], "posts_per_s", unit="a second")
    bars("memory", "Memory of an idle session, without the kernel's", [("idle", "plain"), ("idle-tls", "TLS")],
         "memory_bytes_per_session", unit="bytes")
    curve("sessions", "Deliveries by sessions",
          [("sessions-10", "10"), ("sessions-50", "50"), ("fan-out-100", "100"), ("sessions-500", "500"),
           ("fan-out-1000", "1,000"), ("sessions-2000", "2,000"), ("fan-out-5000", "5,000")],
          "deliveries_per_s", "a second, one type")
    curve("size", "Server CPU a delivery by size",
          [("size-64", "64"), ("fan-out-100", "150"), ("size-1024", "1,024"), ("fan-out-4k", "4,096"), ("size-16384", "16,384")],
          "cpu_us_per_delivery", "microseconds, 100 sessions")
    curve("types", "Server CPU a delivery by types",
          [("fan-out-1000", "1"), ("types-10", "10"), ("fan-out-types", "100"), ("types-1000", "1,000")],
          "cpu_us_per_delivery", "microseconds, 1,000 sessions")


if __name__ == "__main__":
    main()
