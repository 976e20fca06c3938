"""Text in UTF-16, as Excel saves it, read as the UTF-8 that all else reads; and what is broken in either, in words."""

import codecs
import io
from typing import Any

from django.utils.translation import gettext as _

from feedback_app.datasets.formats.base import FileRefused

CHUNK = 2**18
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def as_utf8(stream: io.BufferedReader) -> io.BufferedReader:
    """Return the stream behind its byte order mark, as UTF-8; a text without one is UTF-8 already."""
    head = stream.peek(3)
    if encoding := _UTF16.get(head[:2]):
        stream.read(2)
        return io.BufferedReader(_Utf16(stream, encoding), CHUNK)
    if head[:3] == codecs.BOM_UTF8:
        stream.read(3)
    return stream


class _Utf16(io.RawIOBase):
    """UTF-16 as UTF-8, piece by piece; half a surrogate pair stays one, which no reader of UTF-8 takes for a letter."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._ready = b""
        self._taken = 2  # the mark
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            raw = self._stream.read(CHUNK)
            self._taken += len(raw)
            self._ended = not raw
            if self._ended and self._taken % 2:
                raise FileRefused(
                    _("the file is UTF-16 and ends in the middle of a letter, at byte %(number)s")
                    % {"number": self._taken}
                )
            self._ready = self._decoder.decode(raw, self._ended).encode("utf-8", "surrogatepass")
        piece, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


class Utf8Text:
    """The characters of a stream in UTF-8, and the line of whatever is none."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._line = 1

    def read(self, count: int = CHUNK) -> str:
        """Return some more characters, about so many, or none at the end; raises FileRefused."""
        text = ""
        while not text:
            raw = self._stream.read(count)
            try:
                text = self._decoder.decode(raw, not raw)
            except UnicodeDecodeError as error:
                line = self._line + error.object.count(b"\n", 0, error.start)
                raise FileRefused(_("line %(line)s: %(reason)s") % {"line": line, "reason": _why(error)}) from error
            if not raw:
                break
            self._line += raw.count(b"\n")
        return text


def tell_broken(error: UnicodeDecodeError) -> str:
    """Return what is no UTF-8 in a line, and where."""
    if _is_surrogate(error):
        place = len(error.object[: error.start].decode()) + 1
        return _("half a surrogate pair at character %(number)s of the line") % {"number": place}
    return _("not UTF-8 at byte %(number)s of the line") % {"number": error.start + 1}


def _is_surrogate(error: UnicodeDecodeError) -> bool:
    return error.object[error.start] == 0xED and error.object[error.start + 1 : error.start + 2] >= b"\xa0"


def _why(error: UnicodeDecodeError) -> str:
    if _is_surrogate(error):
        return _("half a surrogate pair")
    known = {
        "invalid start byte": _("no letter begins with this byte"),
        "invalid continuation byte": _("no letter goes on with this byte"),
        "unexpected end of data": _("unexpected end of data"),
    }
    return _("not UTF-8: %(reason)s") % {"reason": known.get(error.reason, error.reason)}
