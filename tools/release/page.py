"""Bundles the page of the web console: npm fetches its libraries by the lock file, esbuild makes one script and one style.

`make web` runs this, and so does the build of a wheel. Nothing that npm brings is committed; a bundle that was made from the
same sources and the same lock file is kept. Without npm, or without a network, everything but the page works.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["BuildError", "build", "main"]

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tools" / "web" / "page"
TARGET = ROOT / "tools" / "web" / "static"
WORK = ROOT / ".web"  # npm's folder: outside of the sources, which a wheel holds as a whole
LAND_STEPS = 20_000  # grid of the land: 2 km, as fine as a map of 1:50 million; half the bytes of the original
NPM_S = 240
_MAIN = ("--splitting", "--format=esm", "--chunk-names=part-[hash]")
_REPLAY = ("--format=iife",)  # a part of the reports of simulations, which are single files
_ESBUILD = (
    "--bundle",
    "--target=es2022",
    "--minify",
    "--legal-comments=none",
    "--loader:.png=dataurl",
    "--log-level=warning",
)
# Writes the land on a coarser grid: what topojson-client calls quantize needs coordinates, not the steps between them.
_LAND = """
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
const { quantize } = createRequire(process.argv[1] + "/x.js")("topojson-client");
const land = JSON.parse(readFileSync(process.argv[1] + "/node_modules/world-atlas/land-50m.json"));
const { scale, translate } = land.transform;
land.arcs = land.arcs.map((arc) => {
  let x = 0, y = 0;
  return arc.map((step) => [(x += step[0]) * scale[0] + translate[0], (y += step[1]) * scale[1] + translate[1]]);
});
delete land.transform;
writeFileSync(process.argv[2], JSON.stringify(quantize(land, Number(process.argv[3]))));
"""


class BuildError(Exception):
    """The page cannot be bundled here. The text is one line."""


def build() -> bool:
    """Bundle the page unless it is up to date; return whether anything was done.

    Raises:
        BuildError: npm is missing, or it or esbuild failed.
    """
    stamp = _stamp()
    if (TARGET / "built.txt").is_file() and (TARGET / "built.txt").read_text() == stamp:
        return False
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError("npm is missing, so the web console has no page; install npm, then: make web")
    WORK.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, WORK / name)
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], "npm")
    made = WORK / "static"
    shutil.rmtree(made, ignore_errors=True)
    esbuild = str(WORK / "node_modules" / ".bin" / "esbuild")
    for name, options in (("main.js", _MAIN), ("replay.js", _REPLAY)):
        _run([esbuild, str(SOURCE / name), f"--outdir={made}", *_ESBUILD, *options], "esbuild")
    node = shutil.which("node") or "node"
    _run([node, "--input-type=module", "-e", _LAND, str(WORK), str(made / "land.json"), str(LAND_STEPS)], "node")
    for name in ("index.html", "icon.svg"):
        shutil.copy(SOURCE / name, made / name)
    (made / "licences.txt").write_text(_licences(), encoding="utf-8")
    for path in sorted(made.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    (made / "built.txt").write_text(stamp)
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.move(made, TARGET)
    return True


def _stamp() -> str:
    """Return a hash of everything that the bundle is made from."""
    paths = [Path(__file__), *sorted(path for path in SOURCE.iterdir() if path.is_file())]
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest() + "\n"


def _run(command: list[str], what: str) -> None:
    environ = {**os.environ, "NODE_PATH": str(WORK / "node_modules"), "NO_COLOR": "1"}
    try:
        done = subprocess.run(  # noqa: S603 -- npm and what its lock file names
            command, cwd=WORK, env=environ, capture_output=True, text=True, timeout=NPM_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{what} took longer than {NPM_S} s, so the web console has no page; try again: make web"
        ) from error
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), "no reason given")
        raise BuildError(f"{what} failed, so the web console has no page: {reason[:200]}; then: make web")


def _licences() -> str:
    """Return the licences of everything in the bundle: the packages that the page needs, and theirs."""
    packages = json.loads((WORK / "package-lock.json").read_text())["packages"]
    parts = ["The page of mycomesh (MIT) contains these packages. The land is from Natural Earth (public domain).\n"]
    for place, entry in sorted(packages.items()):
        folder = WORK / place
        if not place or entry.get("dev") or not folder.is_dir():
            continue
        texts = sorted(path for path in folder.iterdir() if path.name.lower().startswith(("licen", "copying")))
        text = texts[0].read_text(encoding="utf-8", errors="replace") if texts else "(the package has no text of it)"
        name = place.removeprefix("node_modules/")
        parts.append(f"{'=' * 72}\n{name} {entry['version']}, {entry.get('license', 'see below')}\n\n{text.strip()}\n")
    return "\n".join(parts)


def main() -> int:
    """Bundle the page; return the exit code."""
    try:
        made = build()
    except BuildError as error:
        print(f"web: {error}", file=sys.stderr)
        return 1
    sizes = {path.name: path.stat().st_size for path in sorted(TARGET.glob("*.gz"))}
    print("web: the page is up to date" if not made else "web: bundled the page")
    for name, size in sizes.items():
        print(f"  {name:<24} {size / 1000:7.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
