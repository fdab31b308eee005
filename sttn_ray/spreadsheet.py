"""Tables as text, as people and spreadsheet programs write them.

UTF-8, or UTF-16; fields parted by commas, semicolons, tabs or bars, which the header or a line `sep=;` tells; blanks
around names in the header, empty lines, and columns without a name and content are passed over. What could be read in
two ways is an error that says what to do.
"""

import codecs
import csv
import re
from collections.abc import Collection, Iterator
from io import StringIO

DELIMITERS = ",;\t|"
_NAMES = {"\t": "a tab"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[;,\t ]*(\r\n|\n|\r|$)', re.IGNORECASE)


def decode_text(data: bytes) -> str:
    """The text of a table.

    Raises:
        ValueError: it is no text, or in another encoding.
    """
    if data.startswith(b"PK\x03\x04"):
        raise ValueError("it is a workbook, not text; save it as 'CSV UTF-8' in the spreadsheet program")
    encoding = "UTF-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "UTF-16"
    elif b"\0" in data[:2]:  # a name of a column begins with a letter of ASCII
        encoding = "UTF-16-LE" if data[1:2] == b"\0" else "UTF-16-BE"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not {encoding.removesuffix('-sig')} (byte 0x{data[error.start]:02x}), but in another "
            "encoding, such as the Windows-1252 of spreadsheet programs; save it as 'CSV UTF-8', or convert it (iconv "
            "-f WINDOWS-1252 -t UTF-8 IN.csv > OUT.csv)"
        ) from error


def read_csv(text: str, columns: Collection[str]) -> tuple[list[str], Iterator[list[str]]]:
    """The names of a table's columns, and the values of each row, as many.

    Args:
        text: of the table.
        columns: names that may stand in its header; of these, capitals and blanks around them do not count.

    Raises:
        ValueError: a quote is not closed; or, from the iterator, a row has another number of fields than the header.
    """
    delimiter, skipped = None, 0
    if found := _SEPARATOR_LINE.match(text):
        delimiter, skipped = found[1], 1
        text = text[found.end() :]
    if delimiter is None:
        headers = {each: _header(text, each, columns) for each in DELIMITERS}
        delimiter = max(headers, key=lambda each: len(set(headers[each]) & set(columns)))
    header = _header(text, delimiter, columns)
    _refuse_open_quote(text, delimiter, skipped)
    named = [name for name in header if name]
    return named, _rows(text, delimiter, header, skipped)


def _header(text: str, delimiter: str, columns: Collection[str]) -> list[str]:
    for cells in _lines(text, delimiter):
        if any(map(str.strip, cells)):
            names = [cell.strip() for cell in cells]
            known = [name.casefold() if name.casefold() in columns else name for name in names]
            while known and not known[-1]:
                known.pop()
            return known
    return []


def _lines(text: str, delimiter: str, *, is_strict: bool = False) -> "csv._reader":  # type: ignore[name-defined]
    return csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=is_strict)


def _refuse_open_quote(text: str, delimiter: str, skipped: int) -> None:
    lines = _lines(text, delimiter, is_strict=True)
    begins = 1
    try:
        for _ in lines:
            begins = lines.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ValueError(f"a quote that opens in line {begins + skipped} is not closed") from error


def _rows(text: str, delimiter: str, header: list[str], skipped: int) -> Iterator[list[str]]:
    lines = _lines(text, delimiter)
    is_header = True
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"line {lines.line_num + skipped}: {error}") from error
        if not any(map(str.strip, cells)):
            continue
        if is_header:
            is_header = False
            continue
        line = lines.line_num + skipped
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(header):
            told = f"line {line} has another number of fields than the header ({len(cells)}, not {len(header)})"
            if len(cells) > len(header):
                told += (
                    f"; a field that holds {_NAMES.get(delimiter, delimiter)} must stand in double quotes, "
                    'as in "10,20,300,80"'
                )
            raise ValueError(told)
        values = list(zip(header, cells, strict=True))
        if stray := [value for name, value in values if not name and value.strip()]:
            raise ValueError(f"line {line}: {stray[0]!r} stands in a column without a name")
        yield [value for name, value in values if name]
