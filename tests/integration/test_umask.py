"""If root starts PostgreSQL, the server runs as another user: whatever root's umask, it can read what it needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.embedded import postgres
from runtime.embedded.postgres import Postgres
from runtime.home import Home
from runtime.problems import RuntimeProblem
from tests.support.ports import free_port

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root starts PostgreSQL as another user")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can reach, with a separate place for what PostgreSQL shares."""
    made = Path(tempfile.mkdtemp(prefix="orderflow-umask-"))
    made.chmod(0o755)
    monkeypatch.setattr(postgres, "_SHARED", made / "shared")
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("mask", [0o027, 0o077], ids=oct)
def test_a_cluster_is_made(folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        home = Home(folder / "home")
        home.make()
        made = Postgres(home, free_port())
        made.prepare()
    finally:
        os.umask(before)
    assert (made.data / "PG_VERSION").exists()
    assert made.data.stat().st_mode & 0o777 == 0o700, "and nobody else's"


def test_what_is_wrong_is_said(folder: Path) -> None:
    """The test isn't about packages: they must not be downloaded again."""
    home = Home(folder / "home")
    home.make()
    made = Postgres(home, free_port())
    made.prepare()
    (made.folder / "locked").mkdir(mode=0o700)
    with pytest.raises(RuntimeProblem) as caught:
        made._run("initdb", "-D", str(made.folder / "locked" / "data"))
    assert "ermission denied" in caught.value.what
    assert "ORDERFLOW_HOME" in caught.value.way_out
    assert "rm -rf" not in caught.value.way_out
