"""A report as tests read it: strictly, and with the rows that it says are behind each number."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page, read strictly: elements in order with their attributes and texts, and what is not closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {tag} {attrs}"
        element = {
            "tag": tag,
            "about": dict(attrs),
            "text": "",
            "within": [each["tag"] for each in self.open],
        }
        self.elements.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **about):
        wanted = {key.replace("_", "-"): value for key, value in about.items()}
        return [
            each for each in self.elements if each["tag"] == tag and wanted.items() <= each["about"].items()
        ]

    def json(self, name):
        (found,) = self.all("script", id=name)
        return json.loads(found["text"])


def expand(text):
    """The numbers of ``0-4,7``."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@dataclass(frozen=True)
class Number:
    """A number of a table: where it stands, its text, and the rows that the page says are behind it."""

    about: dict
    column: str
    text: str
    rows: list


def numbers(parsed, rows, title):
    """Each number of the table of this title; ``rows`` are all that the page may be about, by key."""
    keys = [record[0] for record in parsed.json("data")["records"]]
    by_start = {key[: len(keys[0])]: row for key, row in rows.items()}
    within, columns, about, place = False, [], {}, 0
    for each in parsed.elements:
        if each["tag"] in ("h2", "h3"):
            within, columns = each["text"] == title, []
        elif within and each["tag"] == "th" and each["about"]["scope"] == "col":
            columns.append(each["text"])
        elif within and each["tag"] == "th":
            about[columns[place]] = each["text"]
            place += 1
        elif within and each["tag"] == "tr":
            about, place = {}, 0
        elif within and each["tag"] == "td":
            column, place = columns[place], place + 1
        elif within and each["tag"] == "button" and "td" in each["within"]:
            behind = [by_start[keys[number]] for number in expand(each["about"]["data-of"])]
            yield Number(about, column, each["text"], behind)
