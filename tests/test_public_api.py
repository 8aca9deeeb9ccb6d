"""The public names: what is promised is there, sorted, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lag_engine


def test_all_is_sorted_and_complete():
    names = lag_engine.__all__
    assert len(set(names)) == len(names)
    constants = [name for name in names if name.isupper()]
    rest = [name for name in names if not name.isupper()]
    classes = sorted(name for name in rest if name[0].isupper())
    functions = sorted(name for name in rest if not name[0].isupper())
    assert names == [*sorted(constants), *classes, *functions]
    assert set(lag_engine._HOMES) <= set(names)
    public = {name for name in vars(lag_engine) if name[0].isupper()} - {"TYPE_CHECKING", "Any"}
    assert public <= set(names)


@pytest.mark.parametrize("name", lag_engine.__all__)
def test_every_public_name_is_what_its_home_calls_by_that_name(name):
    found = getattr(lag_engine, name)
    assert getattr(found, "__name__", name) == name
    assert name in dir(lag_engine)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = lag_engine.Nothing


def test_importing_the_package_does_not_import_torch_or_transformers():
    code = (
        "import sys, lag_engine; lag_engine.LagError;"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
