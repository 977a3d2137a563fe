"""Draws the pictures of the docs as SVG, for light and dark mode: `python -m scripts.pictures`."""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "images"
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1b2421; }
  .soft { fill: #55625d; font-size: 12.5px; }
  .box { fill: #ffffff; stroke: #8fa39b; stroke-width: 1.5; }
  .good { fill: #e3f1ec; stroke: #1f6f5c; }
  .bad { fill: #fdecea; stroke: #a3261b; }
  .line { stroke: #55625d; stroke-width: 1.5; fill: none; }
  .head { fill: #55625d; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4ebe8; }
    .soft { fill: #a3b1ab; }
    .box { fill: #1b2320; stroke: #5d6f68; }
    .good { fill: #21392f; stroke: #58b79f; }
    .bad { fill: #3a1f1c; stroke: #ff9d92; }
    .line { stroke: #a3b1ab; }
    .head { fill: #a3b1ab; }
  }
"""
ARROW = '<marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
ARROW += '<path class="head" d="M0 0 8 4 0 8z"/></marker>'


class Picture:
    """A picture of boxes, arrows and lines of text. Coordinates are in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = width, height
        self._title = title
        self._parts: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, *lines: str, kind: str = "") -> None:
        self._parts.append(
            f'<rect class="box {kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * 9 + 5
        for number, line in enumerate(lines):
            self.text(x + width // 2, round(top + number * 18), line, soft=number > 0, anchor="middle")

    def text(self, x: int, y: int, line: str, *, soft: bool = True, anchor: str = "start") -> None:
        style = ' class="soft"' if soft else ""
        self._parts.append(f'<text{style} x="{x}" y="{y}" text-anchor="{anchor}">{escape(line)}</text>')

    def arrow(self, path: str, *, has_head: bool = True) -> None:
        end = ' marker-end="url(#a)"' if has_head else ""
        self._parts.append(f'<path class="line" d="{path}"{end}/>')

    def save(self, name: str) -> None:
        width, height = self._size
        box = f'viewBox="0 0 {width} {height}" width="{width}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">'
        body = "\n".join(["<defs>", ARROW, "</defs>", *self._parts])
        text = f"{head}\n<title>{escape(self._title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
        (FOLDER / name).write_text(text)


def way_of_an_event() -> None:
    picture = Picture(880, 250, "The way of an event, from capture to its outcome")
    picture.box(10, 90, 130, 60, "capture()", "validate, encode")
    picture.box(190, 90, 150, 60, "delivery scope", "collects events")
    picture.box(390, 90, 150, 60, "transport", "one request, retries")
    picture.arrow("M140 120H186")
    picture.arrow("M340 120H386")
    picture.text(262, 75, "handler, job, request", anchor="middle")
    for y, lines, kind in (
        (10, ("delivered", "the server has it"), "good"),
        (72, ("handed off", "a queue or log has it"), "good"),
        (134, ("retained", "memory or spool keeps it"), ""),
        (196, ("dropped", "counted, logged, reported"), "bad"),
    ):
        picture.box(640, y, 220, 46, *lines, kind=kind)
        picture.arrow(f"M540 120C590 120 590 {y + 23} 636 {y + 23}")
    picture.arrow("M640 157C560 215 470 215 465 154")
    picture.text(470, 222, "with the next send")
    picture.save("way-of-an-event.svg")


def after_response() -> None:
    picture = Picture(880, 210, "The timeline of an invocation with flush='after_response'")
    for y, name in ((38, "your handler"), (98, "the caller"), (158, "Leanbase")):
        picture.text(10, y + 5, name, soft=False)
        picture.arrow(f"M120 {y}H{850 if name != 'Leanbase' else 610}", has_head=False)
    picture.box(140, 20, 260, 36, "handler runs, captures")
    picture.arrow("M400 50C440 50 474 54 475 76")
    picture.box(400, 80, 150, 36, "has the response", kind="good")
    picture.box(400, 140, 210, 36, "sends all events, once", kind="good")
    picture.arrow("M610 128V190", has_head=False)
    picture.text(618, 140, "now Lambda may freeze")
    picture.text(618, 158, "or end the sandbox:")
    picture.text(618, 176, "nothing is pending")
    picture.save("after-response.svg")


def life_of_a_receipt() -> None:
    picture = Picture(880, 190, "The life of a receipt")
    picture.box(10, 60, 150, 60, "scope opens", "receipt is empty")
    picture.box(210, 60, 150, 60, "captures", "each is pending")
    picture.box(400, 60, 190, 60, "scope closes", "sends, up to the deadline")
    picture.arrow("M160 90H206")
    picture.arrow("M360 90H396")
    picture.box(660, 15, 205, 60, "true", "all was passed on", kind="good")
    picture.box(660, 110, 205, 60, "false", "undelivered says what", kind="bad")
    picture.arrow("M590 90C625 90 620 45 656 45")
    picture.arrow("M590 90C625 90 620 140 656 140")
    picture.text(10, 160, "Retained events leave with the next send, which has a receipt of its own.")
    picture.save("life-of-a-receipt.svg")


if __name__ == "__main__":
    way_of_an_event()
    after_response()
    life_of_a_receipt()
