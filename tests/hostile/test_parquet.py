"""Parquet files that are not what they say: each is refused in a sentence that names the file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epmq_export.data.request import DataRequest
from epmq_export.data.texts import read_texts
from epmq_export.errors import InputError


@pytest.mark.parametrize(("sound", "forged"), [(b"text", b"t\xbcxt"), (b"a good day", b"a g\xbc\xbcd day")])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, sound: bytes, forged: bytes) -> None:
    path = tmp_path / "data.parquet"
    rows = pa.table({"text": ["a good day", "rain"]})
    pq.write_table(rows, path, compression="none", use_dictionary=False, write_statistics=False)
    assert len(read_texts(DataRequest(path=path)).samples) == 2
    content = path.read_bytes()
    assert sound in content
    path.write_bytes(content.replace(sound, forged))
    with pytest.raises(InputError, match=r"data\.parquet"):
        read_texts(DataRequest(path=path))
