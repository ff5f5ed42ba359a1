"""Paper: what a method is cited by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A publication behind a method.

    `key` is the BibTeX key, `url` a stable address (arXiv or DOI), `id` the project's own number of the system (``S159``).
    """

    key: str
    title: str
    authors: str
    venue: str
    year: int
    url: str = ""
    id: str = ""

    def bibtex(self) -> str:
        """The entry as BibTeX."""
        fields = {"title": self.title, "author": self.authors, "booktitle": self.venue, "year": str(self.year)}
        if self.url:
            fields["url"] = self.url
        body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items())
        return f"@inproceedings{{{self.key},\n{body}\n}}"

    def __str__(self) -> str:
        first, *others = self.authors.split(" and ")
        return f"{first}{' et al.' if others else ''}, {self.title}, {self.venue} {self.year}"
