"""Reports what pip-audit found in a lock (its JSON, on stdin); a package that was not checked is a failure.

pip-audit leaves out what its service does not know, and says that all is well. Here that is a failure, too.
"""

import json
import sys
from typing import Any

SHOWN_MAX = 5


def judged(report: dict[str, Any]) -> tuple[list[str], bool]:
    """The lines to print, and whether all packages were looked up and none is known to be vulnerable."""
    lines, unknown, vulnerable = [], [], 0
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for found in package.get("vulns", ()):
            vulnerable += 1
            fixed = ", ".join(found.get("fix_versions", ())) or "none yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    count = len(report["dependencies"])
    if unknown:
        names = ", ".join(unknown[:SHOWN_MAX]) + (", .." if len(unknown) > SHOWN_MAX else "")
        lines.append(
            f"{len(unknown)} of {count} packages could not be audited ({names}): the vulnerability service does not "
            "know them, or cannot be reached whole from here. Nothing is known of them. Try again with a connection to "
            "the package index, or with SERVICE=osv, which asks the OSV database."
        )
    elif not vulnerable:
        lines.append(f"{count} packages: no vulnerability is known")
    return lines, not unknown and not vulnerable


def main() -> None:
    text = sys.stdin.read()
    if not text.strip():
        sys.exit("pip-audit has said nothing: its vulnerability service cannot be reached from here (see above)")
    lines, good = judged(json.loads(text))
    print("\n".join(lines))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
