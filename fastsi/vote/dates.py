"""Times of day and dates.

``time:h:mm`` on a 24-hour clock, with seconds if there are any. ``date:yyyy-mm-dd``; without a year
``date:May 6``. In ``05/06/2020`` the month is first, unless it cannot be one.
"""

from __future__ import annotations

import re

_words = str.split
_TIME = re.compile(
    r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?(?: ?([ap])\.? ?m\.?"
    r"| (o'clock|noon|midnight|in the morning|in the afternoon|in the evening))?",
    re.IGNORECASE,
)
_AFTER_NOON = ("in the afternoon", "in the evening")
_ISO_DATE = re.compile(r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})")
_US_DATE = re.compile(r"([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4})")
_MONTHS = _words(
    "January February March April May June July August September October November December"
)
_BEFORE = r"(?:on )?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,? )?(?:the )?"
_DAY = r"([0-9]{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:(?:, ?| )([0-9]{4}))?"
_DAY_MONTH = re.compile(rf"{_BEFORE}{_DAY} (?:of )?([a-z]{{3,9}})\.?{_YEAR}", re.IGNORECASE)
_MONTH_DAY = re.compile(rf"{_BEFORE}([a-z]{{3,9}})\.? {_DAY}{_YEAR}", re.IGNORECASE)


def read_time(text: str) -> str | None:
    """``3:05 pm`` and ``15:05`` are one time; ``3 pm`` is ``15:00``, ``noon`` is ``12:00``.

    Two fields with a two-digit minute below 60 are a time, not a ratio.
    """
    lower = text.lower()
    if lower in ("noon", "midnight"):
        return "time:12:00" if lower == "noon" else "time:0:00"
    match = _TIME.fullmatch(text)
    if match is None or not (match[2] or match[4] or match[5]):
        return None
    hour, minute, second = (int(field or 0) for field in match.group(1, 2, 3))
    half, words = (match[4] or "").lower(), (match[5] or "").lower()
    if words in ("noon", "midnight") and (hour, minute, second) != (12, 0, 0):
        return None
    if half or words in ("midnight", "in the morning", *_AFTER_NOON):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "p" or words in _AFTER_NOON else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    return f"time:{hour}:{minute:02}" + (f":{second:02}" if second else "")


def read_date(text: str) -> str | None:
    """ISO, US (month first; day first where the month cannot be) and month-name dates."""
    if match := _ISO_DATE.fullmatch(text):
        year, month, day = (int(field) for field in match.groups())
    elif match := _US_DATE.fullmatch(text):
        month, day, year = (int(field) for field in match.groups())
        if month > 12:
            month, day = day, month
    elif match := _DAY_MONTH.fullmatch(text):
        day, month, year = int(match[1]), _month(match[2]), int(match[3] or -1)
    elif match := _MONTH_DAY.fullmatch(text):
        month, day, year = _month(match[1]), int(match[2]), int(match[3] or -1)
    else:
        return None
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"date:{_MONTHS[month - 1]} {day}" if year < 0 else f"date:{year:04}-{month:02}-{day:02}"


def _month(name: str) -> int:
    """1 to 12 for a month's name, its first three letters or ``sept``; 0 for another word."""
    name = name.capitalize()
    for month, full in enumerate(_MONTHS, 1):
        if name in (full, full[:3]) or (month == 9 and name == "Sept"):
            return month
    return 0
