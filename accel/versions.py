"""Whether a version is in a range, by PEP 440; packaging is imported where that takes it.

packaging compiles a dozen long regular expressions when it is imported, which is most of a warm
`auto()`. Nearly every range is of `>=` and `<` between plain numbers, which need none of it.
"""

from __future__ import annotations


def within(version: str, versions: str) -> bool:
    """Whether `version` is in `versions` (`>=2.6,<3`), pre-releases included.

    Raises packaging's InvalidVersion and InvalidSpecifier for what are none.
    """
    plain = _plainly(version, versions)
    if plain is not None:
        return plain
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(version, prereleases=True)


def requirement(text: str) -> tuple[str, str] | None:
    """The name and the versions of a requirement that is no more than these, else None."""
    end = len(text) - len(text.lstrip(_NAME))
    name, rest = text[:end], text[end:].strip()
    if not name or not (name[0].isalnum() and name[-1].isalnum()) or rest[:1] not in _OPERATORS:
        return None
    return None if set(rest) & set(";[(@") else (name, rest)


_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
_OPERATORS = ("", "<", ">", "=", "!", "~")


def release(version: str) -> tuple[int, ...] | None:
    """The numbers of a final release, local part left out, zeros at the end too; else None."""
    public, plus, local = version.partition("+")
    parts = public.split(".")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        return None
    if plus and not all(part.isascii() and part.isalnum() for part in local.split(".")):
        return None
    numbers = [int(part) for part in parts]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _plainly(version: str, versions: str) -> bool | None:
    """The answer where only plain numbers are to be compared by `>=` and `<`; else None."""
    have = release(version)
    if have is None:
        return None
    met = True
    for clause in versions.split(",") if versions.strip() else ():
        text = clause.strip()
        sign = ">=" if text.startswith(">=") else "<" if text.startswith("<") else None
        bound = None if sign is None else release(text[len(sign) :].strip())
        if bound is None or "+" in text:
            return None
        met = met and (have >= bound if sign == ">=" else have < bound)
    return met
