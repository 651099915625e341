"""What each test of the fault suite counted, by `record_property`, and the end of the run all together."""

from collections import Counter
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counted: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                counted.update(dict(report.user_properties))
    terminalreporter.write_line("".join(f"\nin all, {what}: {number}" for what, number in counted.items()))
