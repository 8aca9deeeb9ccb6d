from __future__ import annotations

import subprocess
import sys

import pytest

import lag_integrations.langchain as langchain


@pytest.mark.parametrize("name", langchain.__all__)
def test_every_public_name_is_there(name):
    assert getattr(langchain, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = langchain.Nothing


def test_the_chat_model_needs_no_vector_store_installed():
    code = (
        "import sys, lag_integrations.langchain;"
        "print([m for m in ('chromadb', 'bm25s', 'sentence_transformers') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
