"""A URL of a pipeline that holds a login or a token is refused where it stands, and not repeated."""

from __future__ import annotations

import pytest

from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError
from store.pipeline import Pipeline


@pytest.mark.parametrize(
    "place",
    [
        "store: {path: '%s'}",
        "store: {path: s}\n  corpora: {c: {files: ['%s']}}",
        "store: {path: s}\n  corpora: {c: {files: [a.csv], allow: ['%s']}}",
    ],
)
@pytest.mark.parametrize(
    "url", ["http://user:s3cr3t@host/a.tar", "https://host/a.tar?token=s3cr3t", "s3://K:s3cr3t@b/a"]
)
def test_a_credential_in_a_url_is_refused_and_not_repeated(tmp_path, place, url):
    path = tmp_path / "pipelines.yaml"
    path.write_text(f"p:\n  {place % url}\n")
    with pytest.raises(ConfigError, match="holds a") as caught:
        read_pipeline(path, "p", Pipeline)
    assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"
    assert "take it out" in str(caught.value)
