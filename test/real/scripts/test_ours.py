"""Tests of somebody's, for pytest."""

import pathlib

import pytest


@pytest.mark.parametrize("number", range(3))
def test_output(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    print(number)
    assert capsys.readouterr().out == f"{number}\n"


def test_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("file").write_text("text")
    assert (tmp_path / "file").read_text() == "text"
